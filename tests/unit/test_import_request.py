"""The rules for an import request, and the message for each broken rule."""

import unicodedata
from typing import Any

import pytest
from builders import a_body, a_request
from hypothesis import given
from hypothesis import strategies as st

from ims_config.import_request import (
    DataImage,
    ImportRequest,
    InvalidRequest,
    parse_adoption,
    parse_request,
)
from ims_config.names import IMPORT_ID_TAG
from ims_config.spellings import SPELLINGS


def problem_of(**differences: Any) -> str:
    with pytest.raises(InvalidRequest) as caught:
        parse_request(a_body(**differences))
    [problem] = caught.value.problems
    return problem


@pytest.mark.parametrize(
    "differences",
    [
        {"kind": "iso", "os_version": "CentOS 7.0 64bit"},
        {"kind": "iso", "os_version": "CentOS 7.0 64bit", "type": "IsoImage"},
        {"kind": "data", "min_disk": 2048, "os_type": "Windows"},
        {"kind": "quick", "os_version": "CentOS 7.0 64bit", "architecture": "arm"},
        {"kind": "quick", "type": "DataImage", "os_type": "Linux", "min_disk": 2048},
        {"is_quick_import": True, "os_version": "CentOS 7.0 64bit"},
        {"data_images": [{"image_url": "images:d.qcow2", "min_disk": 2048}]},
        {"enterprise_project_id": "0"},
        {"enterprise_project_id": "877a2cda-ba63-4e1e-b95f-e67e48b6129a"},
        {"description": "Letters, digits. And a full stop"},
        {"name": "ä"},
        {"min_ram": 1024, "max_ram": 1024},
    ],
    ids=str,
)
def test_every_variant_of_the_call_is_valid(differences: dict[str, Any]) -> None:
    assert parse_request(a_body(**differences))


@pytest.mark.parametrize(
    ("differences", "message"),
    [
        ({"name": None}, "name: is mandatory"),
        ({"name": "a" * 129}, "name: must be 1 to 128 letters"),
        ({"name": "a/b"}, "name: must be 1 to 128 letters"),
        ({"name": " a"}, "name: must not start or end with a space; got ' a'"),
        ({"image_url": "no-colon"}, "image_url: must be BUCKET:KEY"),
        ({"image_url": "https://obs/x"}, "image_url: must be BUCKET:KEY of OBS, not a URL"),
        (
            {"image_url": "images:a b"},
            "image_url: must not contain spaces (IMS rejects",
        ),
        ({"image_url": "Images:a"}, "image_url: must start with a bucket name"),
        ({"image_url": "images:" + "ä" * 513}, "image_url: must have a key of at most 1024"),
        ({"min_disk": 0}, "min_disk: must be 1 to 1024 GB for a system image; got 0"),
        ({"min_disk": 1025}, "min_disk: must be 1 to 1024 GB for a system image; got 1025"),
        ({"kind": "data", "min_disk": 2049}, "min_disk: must be 1 to 2048 GB for a data disk"),
        ({"min_disk": "big"}, "min_disk: must be a valid integer"),
        ({"description": "a<b"}, "description: must not contain line breaks, '<' or '>'"),
        ({"description": "a" * 1025}, "description: must have at most 1024"),
        ({"kind": "iso"}, "os_version: is mandatory for an ISO (IMG.0166)"),
        ({"kind": "quick"}, "os_version: is mandatory for a quick import (IMG.0159)"),
        ({"is_quick_import": True}, "os_version: is mandatory for a quick import"),
        ({"type": "IsoImage"}, "type: IsoImage is for kind iso only; got 'IsoImage'"),
        ({"type": "DataImage"}, "type: DataImage is for kind quick only"),
        ({"kind": "data", "os_type": "Other"}, "os_type: must be Linux or Windows"),
        ({"architecture": "arm", "hw_firmware_type": "bios"}, "hw_firmware_type: must be uefi"),
        ({"min_ram": 2, "max_ram": 1}, "max_ram: must not be less than min_ram; got 1"),
        ({"enterprise_project_id": "x"}, "enterprise_project_id: must be 0 (the default"),
        ({"kind": "data", "is_config": True}, "is_config: is not a parameter of kind data"),
        ({"tags": ["a"]}, "tags: must be KEY=VALUE, e.g. team=platform; 'a' has no '='"),
        ({"tags": ["a.b=c"]}, "tags: key 'a.b' must be 1 to 36"),
        ({"tags": {"a": "b" * 44}}, "tags: value"),
        ({"tags": {str(n): "" for n in range(10)}}, "tags: must be at most 9: IMS accepts 10"),
        ({"tags": {"ims-import-id": "x"}}, "tags: key 'ims-import-id' is reserved for ims-import"),
        ({"mindisk": 1}, "mindisk: unknown field; got 1"),
        ({"cloud": "a\tb"}, "cloud: must be the name of an entry of clouds.yaml"),
        (
            {"data_images": [{"image_url": "images:d", "min_disk": 1}] * 4},
            "data_images: must have at most 3",
        ),
        (
            {"data_images": [{"image_url": "images:d", "min_disk": 0}]},
            "data_images.0.min_disk: must be greater than or equal to 1; got 0",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_broken_rule_names_field_and_value(differences: dict[str, Any], message: str) -> None:
    assert problem_of(**differences).startswith(message)


def test_all_problems_are_reported_at_once() -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_request({"name": " a", "image_url": "x"})

    assert [problem.split(":")[0] for problem in caught.value.problems] == [
        "name",
        "image_url",
        "min_disk",
    ]


def test_an_object_key_may_contain_colons() -> None:
    assert a_request(image_url="images:a:b.qcow2").image_url == "images:a:b.qcow2"


def test_tags_are_a_list_or_an_object() -> None:
    as_list = a_request(tags=["team=a", "x="])

    assert as_list.tags == a_request(tags={"team": "a", "x": ""}).tags == {"team": "a", "x": ""}


@pytest.mark.parametrize(
    "tags",
    [
        ["aaa.111", "b.2"],
        ["aaa=111", "b.2"],
        [{"key": "aaa", "value": "111"}, {"key": "b", "value": 2}],
        [{"key": "aaa", "value": "111"}, "b=2"],
        {"aaa": 111, "b": "2"},
    ],
    ids=str,
)
@pytest.mark.parametrize("field", ["tags", "image_tags"])
def test_tags_have_the_forms_of_ims_and_of_other_tools(field: str, tags: Any) -> None:
    assert a_request(**{field: tags}).tags == {"aaa": "111", "b": "2"}
    disk = {"image_url": "images:d", "min_disk": 40, field: tags}
    assert a_request(data_images=[disk]).data_images[0].tags == {"aaa": "111", "b": "2"}


@given(
    st.from_regex(r"[A-Za-z0-9_\-]{1,36}", fullmatch=True).filter(lambda key: key != IMPORT_ID_TAG),
    st.from_regex(r"[A-Za-z0-9_\-]{0,43}", fullmatch=True),
)
def test_every_form_of_a_tag_means_the_same(key: str, value: str) -> None:
    forms: list[Any] = [
        [f"{key}={value}"], [f"{key}.{value}"], [{"key": key, "value": value}], {key: value},
    ]  # fmt: skip

    assert [a_request(tags=form).tags for form in forms] == [{key: value}] * len(forms)


@pytest.mark.parametrize(
    "tag",
    [
        "a.b=c",  # not the key a with the value b=c
        "a=b.c",
        "a.b.c",
        {"value": "x"},
        {"key": "a", "value": "x", "more": 1},
        {"team": "platform"},
        {"key": None},
    ],
    ids=str,
)
def test_a_tag_with_more_than_one_meaning_is_refused(tag: Any) -> None:
    assert problem_of(tags=[tag]).startswith("tags: ")


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(
    "sample",
    [
        # The samples of the API reference of IMS, and the field names of Terraform.
        {"name": "a", "image_url": "images:a", "min_disk": 40, "tags": ["aaa.111", "bbb.333"]},
        {"name": "a", "image_url": "images:a", "min_disk": 40, "type": "ECS",
         "image_tags": [{"key": "key2", "value": "value2"}, {"key": "key1", "value": "value1"}]},
        {"name": "a", "image_url": "images:a", "min_disk_gb": 40, "min_ram_mb": 1024,
         "tags": {"a": "b"}},
    ],
    ids=["tags", "image_tags", "terraform"],
)  # fmt: skip
def test_samples_of_other_tools_are_valid(sample: dict[str, Any], strict: bool) -> None:  # noqa: FBT001  # a table
    request = parse_request(sample, strict=strict)

    assert request.min_disk == 40
    assert request.tags


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"tags": ["a=b"], "image_tags": ["c=d"]}, "image_tags: is another name of tags: use one"),
        ({"min_disk_gb": 50}, "min_disk_gb: is another name of min_disk: use one"),
        ({"min_ram": 1, "min_ram_mb": 2}, "min_ram_mb: is another name of min_ram: use one"),
    ],
)
def test_a_field_has_only_one_of_its_names(fields: dict[str, Any], problem: str) -> None:
    assert problem_of(**fields).startswith(problem)


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("field", [*ImportRequest.model_fields, *SPELLINGS])
def test_null_means_absent_for_every_field(field: str, strict: bool) -> None:  # noqa: FBT001  # a table
    body = a_body()
    required = field in body
    if required:
        with pytest.raises(InvalidRequest, match=f"{field}: is mandatory"):
            parse_request(body | {field: None}, strict=strict)
    else:
        assert parse_request(body | {field: None}, strict=strict) == a_request()
        disk = {"image_url": "images:d", "min_disk": 40}
        if field in DataImage.model_fields:
            nulls = [disk | {field: None}]
            with_disk = parse_request(body | {"data_images": nulls}, strict=strict)
            assert with_disk == a_request(data_images=[disk])


def test_an_unknown_field_is_refused_even_if_it_is_null() -> None:
    with pytest.raises(InvalidRequest, match="mindisk: unknown field"):
        parse_request(a_body() | {"mindisk": None})


@pytest.mark.parametrize("name", ["Büro", "Ångström", "café"])
def test_a_name_of_decomposed_characters_is_the_composed_name(name: str) -> None:
    decomposed = unicodedata.normalize("NFD", name)

    assert decomposed != name
    assert a_request(name=decomposed).name == name
    assert parse_adoption(decomposed, None).name == name


@pytest.mark.parametrize("cloud", ["otc prod", "otc.eu-de", "öffentlich", "a/b", "'", "x" * 64])
def test_any_key_of_a_clouds_file_is_a_cloud(cloud: str) -> None:
    assert a_request(cloud=cloud).cloud == cloud


@pytest.mark.parametrize("cloud", ["", "a\nb", "\x00", "x" * 65, "\ud800", "a\u200eb"])
def test_a_cloud_is_printable_and_has_64_characters_at_most(cloud: str) -> None:
    assert problem_of(cloud=cloud).startswith("cloud: must be the name of an entry of clouds.yaml")


def test_is_config_init_is_accepted_with_a_warning() -> None:
    assert "is_config_init: not sent" in a_request(is_config_init=True).warnings()[0]


def test_a_small_disk_causes_a_warning() -> None:
    assert a_request(min_disk=40).warnings() == []
    assert "accepts 10 GB" in a_request(min_disk=10).warnings()[0]


def test_a_request_survives_the_queue() -> None:
    request = a_request(tags={"a": "b"}, kind="iso", os_version="CentOS 7.0 64bit")

    assert parse_request(request.as_message()) == request


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    ),
    st.sampled_from(sorted(ImportRequest.model_fields)),
)
def test_any_value_of_any_field_gives_warnings_or_an_invalid_request(
    value: Any, field: str
) -> None:
    try:
        problems = parse_request(a_body() | {field: value}).warnings()
    except InvalidRequest as invalid:
        problems = invalid.problems

    assert all(": " in problem for problem in problems)
