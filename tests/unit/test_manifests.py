"""Parsing manifests, and deciding what applying them does."""

import json
import runpy
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from builders import a_request

from ims_config.import_request import ImportRequest
from ims_config.records import ImportRecord, State
from ims_config.spellings import SPELLINGS
from ims_config.worker_reports import FoundImage
from ims_producer.manifest.parsing import (
    MAX_IMAGES,
    InvalidManifest,
    parse_manifest,
    requests_of,
)
from ims_producer.manifest.planning import Item, Step, dropped, plan

DOCS = Path(__file__).parents[2] / "docs"
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


def requests(**manifest: Any) -> list[ImportRequest]:
    return requests_of(parse_manifest(yaml.safe_dump({"version": 1} | manifest)))


def problems(text: str) -> list[str]:
    with pytest.raises(InvalidManifest) as caught:
        requests_of(parse_manifest(text))
    return caught.value.problems


def image(**fields: Any) -> dict[str, Any]:
    return {"name": "a", "image_url": "images:a.qcow2", "min_disk": 40} | fields


# --- parsing --------------------------------------------------------------------------------


def test_defaults_apply_unless_an_image_overrides_them_and_tags_are_merged() -> None:
    [first, second] = requests(
        defaults={"min_disk": 50, "tags": {"team": "a", "stage": "x"}},
        images=[
            {"name": "a", "image_url": "images:a"},
            {"name": "b", "image_url": "images:b", "min_disk": 60, "tags": {"stage": "y"}},
        ],
    )

    assert (first.min_disk, first.tags) == (50, {"team": "a", "stage": "x"})
    assert (second.min_disk, second.tags) == (60, {"team": "a", "stage": "y"})


@pytest.mark.parametrize(
    "tags",
    [
        {"tags": {"stage": "y"}},
        {"tags": ["stage=y"]},
        {"tags": ["stage.y"]},
        {"image_tags": [{"key": "stage", "value": "y"}]},
    ],
)
def test_defaults_and_images_may_write_fields_differently(tags: dict[str, Any]) -> None:
    defaults = {"min_disk_gb": 50, "image_tags": ["team.a", "stage.x"], "cloud": "x"}

    [first, second, third] = requests(
        defaults=defaults,
        images=[
            {"name": "a", "image_url": "images:a", "min_disk": 60} | tags,
            {"name": "b", "image_url": "images:b", "tags": None, "cloud": None},
            {"name": "c", "image_url": "images:c", "matrix": {"min_disk": [70]}},
        ],
    )

    assert (first.min_disk, first.tags) == (60, {"team": "a", "stage": "y"})
    assert (second.min_disk, second.tags, second.cloud) == (50, {}, None)
    assert third.min_disk == 70


def test_a_matrix_creates_one_request_for_each_combination() -> None:
    expanded = requests(images=[image(matrix={"cloud": ["x", "y"], "name": ["a", "b"]})])

    assert [(request.cloud, request.name) for request in expanded] == [
        ("x", "a"), ("x", "b"), ("y", "a"), ("y", "b"),
    ]  # fmt: skip


def test_json_is_accepted() -> None:
    text = json.dumps({"version": 1, "images": [image()]})

    assert [request.name for request in requests_of(parse_manifest(text))] == ["a"]


def test_a_value_that_looks_like_a_date_stays_text() -> None:
    entry = "{name: a, image_url: 'images:a', min_disk: 40, os_version: 2026-01-01}"
    text = f"version: 1\nimages: [{entry}]"

    assert requests_of(parse_manifest(text))[0].os_version == "2026-01-01"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a", "manifest: must be an object; got list"),
        ("version: 2\nimages: [{}]", "version: must be 1; got 2"),
        ("version: 1", "images: is mandatory"),
        ("version: 1\nimages: []", "images: must have at least 1 item"),
        ("version: 1\nimage: []\nimages: [{}]", "image: unknown field; valid: version, name"),
        ("version: 1\nversion: 1", "line 2, column 1: duplicate key 'version'"),
        ("version: 1\n\timages: []", "line 2, column 1: "),
        ("a: *b", "line 1, column 4: found undefined alias"),
        ("version: 1\nname: a b\nimages: [{}]", "name: must match"),
        ("version: 1\nimages: [{}]", "images[0]: name: is mandatory"),
        (
            "version: 1\nimages: [{name: a, image_url: 'i:a', min_disk: 0}]",
            "images[0] 'a': image_url: must start with a bucket name",
        ),
        (
            "version: 1\ndefaults: {tags: [x]}\nimages: [{name: a, tags: [a=b]}]",
            "images[0] 'a': tags: must be KEY=VALUE",
        ),
        (
            "version: 1\nimages: [{name: a, matrix: [x]}]",
            "images[0] 'a': matrix: must be an object of lists, e.g. cloud: [a, b]; got list",
        ),
        (
            "version: 1\nimages: [{name: a, matrix: {cloud: x}}]",
            "images[0] 'a': matrix: cloud must be a non-empty list; got 'x'",
        ),
    ],
)
def test_a_problem_names_its_place(text: str, message: str) -> None:
    assert problems(text)[0].startswith(message)


def test_all_problems_are_reported_together() -> None:
    text = yaml.safe_dump({"version": 1, "images": [image(min_disk=0), image(name=" b")]})

    assert [problem.split(":")[0] for problem in problems(text)] == [
        "images[0] 'a'",
        "images[1] ' b'",
    ]


def test_names_must_be_unique_within_a_cloud() -> None:
    text = yaml.safe_dump({"version": 1, "images": [image(), image(min_disk=50)]})

    assert problems(text) == [
        "images: 'a' occurs 2 times for the default cloud; names must be unique"
    ]
    assert len(requests(images=[image(cloud="x"), image(cloud="y")])) == 2


def test_a_matrix_has_a_maximum_size() -> None:
    wide = {field: list(range(100)) for field in ("min_ram", "max_ram", "min_disk")}

    assert f"images: must be at most {MAX_IMAGES} with all matrices" in problems(
        yaml.safe_dump({"version": 1, "images": [image(matrix=wide)]})
    )


def test_the_published_schema_matches_the_code() -> None:
    published = json.loads((DOCS / "manifest.schema.json").read_text())

    script = runpy.run_path(str(DOCS / "manifest_schema.py"))
    assert published == script["json_schema"](), "run: .venv/bin/python docs/manifest_schema.py"
    fields = published["$defs"]["Entry"]["properties"]
    assert set(fields) == {*ImportRequest.model_fields, *SPELLINGS, "matrix"}


def test_the_example_in_the_docs_is_a_valid_manifest() -> None:
    text = (DOCS / "manifests.md").read_text().partition("```yaml\n")[2].partition("```")[0]

    assert [request.name for request in requests_of(parse_manifest(text))] == [
        "ubuntu-24.04", "debian-12", "debian-12",
    ]  # fmt: skip


# --- planning -------------------------------------------------------------------------------


def a_record(request: ImportRequest, state: State, **differences: Any) -> ImportRecord:
    fields: dict[str, Any] = {
        "id": f"import-of-{request.name}", "state": state, "cloud": request.cloud,
        "kind": request.kind, "name": request.name, "image_url": request.image_url,
        "created_at": NOON, "request": request.as_message(),
    }  # fmt: skip
    return ImportRecord.model_validate(fields | differences)


def planned(
    request: ImportRequest, *records: ImportRecord, images: list[FoundImage] | None = None
) -> Item:
    by_cloud = {} if images is None else {request.cloud: images}
    [item] = plan("default", [request], records, by_cloud)
    return item


def an_image(**differences: Any) -> FoundImage:
    fields = {"id": "img-1", "name": "ubuntu-24.04", "status": "active", "import_id": None}
    return FoundImage.model_validate(fields | differences)


def test_an_unknown_image_is_new() -> None:
    item = planned(a_request(), images=[])

    assert (item.step, item.record) == (Step.NEW, None)
    assert item.key


def test_equal_plans_use_the_same_idempotency_key() -> None:
    assert planned(a_request()).key == planned(a_request()).key
    assert planned(a_request()).key != planned(a_request(min_disk=41)).key


@pytest.mark.parametrize("state", [State.QUEUED, State.RUNNING, State.UNCERTAIN])
def test_an_open_import_is_unchanged(state: State) -> None:
    item = planned(a_request(), a_record(a_request(), state), images=[])

    assert item.step is Step.UNCHANGED
    assert str(state) in item.why


def test_priority_and_webhook_do_not_make_a_different_image() -> None:
    other = a_request(priority="high", webhook_url="https://ci.example/hook")
    record = a_record(a_request(), State.SUCCEEDED, image_id="img-1")

    assert planned(other, record).step is Step.UNCHANGED
    assert planned(other).key == planned(a_request()).key


def test_a_succeeded_import_is_unchanged_while_its_image_exists() -> None:
    record = a_record(a_request(), State.SUCCEEDED, image_id="img-1")

    assert planned(a_request(), record).step is Step.UNCHANGED
    assert planned(a_request(), record, images=[an_image()]).step is Step.UNCHANGED


def test_a_deleted_image_is_imported_again_by_a_new_import() -> None:
    record = a_record(a_request(), State.SUCCEEDED, image_id="img-1")

    item = planned(a_request(), record, images=[])

    assert (item.step, item.why) == (Step.AGAIN, "its image img-1 no longer exists")
    assert item.key != planned(a_request()).key


@pytest.mark.parametrize("state", [State.FAILED, State.CANCELED])
def test_a_failed_import_is_retried_under_its_id(state: State) -> None:
    item = planned(a_request(), a_record(a_request(), state, reason="IMG.0057: empty"))

    assert (item.step, item.key) == (Step.AGAIN, None)
    assert item.record is not None
    assert "IMG.0057" in item.why


def test_a_different_request_with_the_same_name_is_changed_and_names_the_fields() -> None:
    old = a_record(a_request(min_disk=50, tags={"a": "b"}), State.SUCCEEDED, image_id="img-1")

    item = planned(a_request(), old, images=[an_image(import_id=old.id)])

    assert (item.step, item.why) == (Step.CHANGED, f"min_disk, tags differ from import {old.id}")


def test_an_open_import_of_a_different_request_is_a_conflict() -> None:
    other = a_record(a_request(min_disk=50), State.RUNNING)

    assert planned(a_request(), other).step is Step.CONFLICT


def test_a_foreign_image_with_that_name_is_a_conflict() -> None:
    item = planned(a_request(), images=[an_image(id="theirs")])

    assert (item.step, item.key) == (Step.CONFLICT, None)
    assert "theirs" in item.why


def test_a_killed_image_is_no_conflict() -> None:
    assert planned(a_request(), images=[an_image(status="killed")]).step is Step.NEW


def test_the_newest_import_of_a_request_decides() -> None:
    failed = a_record(a_request(), State.FAILED, id="first")
    later = NOON + timedelta(hours=1)
    done = a_record(a_request(), State.SUCCEEDED, id="second", created_at=later, image_id="img-1")

    assert planned(a_request(), done, failed).step is Step.UNCHANGED


def test_dropped_lists_succeeded_imports_that_the_manifest_no_longer_lists() -> None:
    request, gone = a_request(), a_request(name="old")
    records = [
        a_record(request, State.SUCCEEDED, key="manifest/default/1/1"),
        a_record(gone, State.SUCCEEDED, key="manifest/default/2/1"),
        a_record(gone, State.FAILED, key="manifest/default/3/1"),
        a_record(gone, State.SUCCEEDED, key="manifest/other/2/1"),
        a_record(gone, State.SUCCEEDED),
    ]

    assert dropped("default", [request], records) == [records[1]]
