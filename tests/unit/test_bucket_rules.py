"""Watch rules: what is checked in them, which objects they mean, and when one is whole."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from ims_config.import_request import InvalidRequest
from ims_worker.bucket_rules import InvalidRules, Rule, StoredObject, parse_rules, whole_objects

EXAMPLE = Path(__file__).parents[2] / "config" / "watch.example.yaml"
NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)


def a_rule(**differences: Any) -> dict[str, Any]:
    rule = {"name": "golden", "bucket": "images", "suffix": ".qcow2", "request": {"min_disk": 40}}
    return {field: value for field, value in (rule | differences).items() if value is not None}


def rule(**differences: Any) -> Rule:
    [made] = parse_rules(yaml.safe_dump({"version": 1, "rules": [a_rule(**differences)]})).rules
    return made


def an_object(key: str = "in/ubuntu.qcow2", **differences: Any) -> StoredObject:
    facts = {"key": key, "etag": "0123456789abcdef", "size": 7, "modified": NOON}
    return StoredObject(**(facts | differences))


def problems(text: str) -> str:
    with pytest.raises(InvalidRules) as caught:
        parse_rules(text)
    return str(caught.value)


# --- the file -------------------------------------------------------------------------------


def test_the_example_is_a_file_of_rules() -> None:
    names = [rule.name for rule in parse_rules(EXAMPLE.read_text()).rules]

    assert names == ["golden", "with-a-marker", "stable"]


def test_the_page_about_watching_tells_of_every_field() -> None:
    page = (EXAMPLE.parents[1] / "docs" / "watch.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    documented = {name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])}

    assert documented == set(Rule.model_fields)


@pytest.mark.parametrize(
    ("differences", "message"),
    [
        ({"bucket": None}, "rules.0.bucket: is mandatory"),
        ({"name": "a b"}, "rules.0.name: must match pattern"),
        ({"sufix": ".iso"}, "rules.0.sufix: unknown field"),
        ({"image_name": "{name}"}, "image_name: may hold {stem}, {date}, {etag}, {rule}"),
        ({"image_name": "{stem.__class__}"}, "not {stem.__class__}"),
        ({"image_name": "{stem:>9}"}, "may hold {stem}"),
        ({"image_name": "{"}, "image_name: is no template"),
        ({"request": {}}, "its imports would be refused: min_disk: is mandatory"),
        ({"request": {"min_disk": 0}}, "its imports would be refused: min_disk: must be 1 to"),
        ({"request": {"min_disk": 40, "name": "x"}}, "request: name: comes from the object"),
        ({"bucket": "B"}, "its imports would be refused: image_url: must start with a bucket"),
        ({"stable_s": -1}, "rules.0.stable_s: must be greater than or equal to 0"),
    ],
)
def test_a_rule_that_cannot_work_is_refused_before_anything_lands(
    differences: dict[str, Any], message: str
) -> None:
    text = yaml.safe_dump({"version": 1, "rules": [a_rule(**differences)]})

    assert message in problems(text)


def test_two_rules_of_one_name_are_refused() -> None:
    text = yaml.safe_dump({"version": 1, "rules": [a_rule(), a_rule()]})

    assert "rules: names must differ; twice: golden" in problems(text)


@pytest.mark.parametrize("text", ["", "- 1", "version: 1", "version: 2\nrules: []", "a: 1\na: 2"])
def test_what_is_no_file_of_rules_is_said(text: str) -> None:
    assert problems(text)


# --- which objects --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("in/ubuntu.qcow2", True),
        ("in/deep/er/ubuntu.qcow2", True),
        ("out/ubuntu.qcow2", False),
        ("in/ubuntu.vmdk", False),
        ("in/ubuntu.qcow2.ready", False),
        ("in/", False),
    ],
)
def test_a_rule_means_objects_by_prefix_and_suffix(key: str, meant: bool) -> None:  # noqa: FBT001  # a table
    assert rule(prefix="in/", marker=".ready").matches(key) is meant


def test_without_a_suffix_neither_folders_nor_markers_are_meant() -> None:
    every = rule(suffix=None, marker=".ready")

    assert [key for key in ("a/", "a", "a.ready", "a.ready.ready") if every.matches(key)] == ["a"]
    assert every.marked_by("a.ready") == "a"
    assert every.marked_by("a") is None
    assert rule().marked_by("a.ready") is None


# --- which image ----------------------------------------------------------------------------


def test_the_name_comes_from_the_template() -> None:
    named = rule(image_name="{rule} {stem} {date} {etag}").request_for(an_object())

    assert named.name == "golden ubuntu 20261124 01234567"
    assert named.image_url == "images:in/ubuntu.qcow2"
    assert named.min_disk == 40


def test_what_a_name_cannot_hold_is_replaced_in_it() -> None:
    named = rule(image_name="{stem}").request_for(an_object(f"in/ubüntu+24_04.{'x' * 200}.qcow2"))

    assert named.name.startswith("ubüntu-24_04.xxx")
    assert len(named.name) == 128


def test_a_key_that_ims_refuses_is_said() -> None:
    with pytest.raises(InvalidRequest, match="image_url: must not contain spaces"):
        rule().request_for(an_object("a b.qcow2"))


def test_the_same_content_has_one_key_and_other_content_another() -> None:
    one = rule().idempotency_key(an_object())

    assert rule(prefix="in/").idempotency_key(an_object(modified=NOON + timedelta(1))) == one
    assert rule().idempotency_key(an_object(etag="other")) != one
    assert rule().idempotency_key(an_object("in/other.qcow2")) != one
    assert rule(name="other").idempotency_key(an_object()) != one
    assert rule(bucket="other").idempotency_key(an_object()) != one


# --- when it is whole -----------------------------------------------------------------------


def is_whole(made: Rule, found: StoredObject, marker: StoredObject | None = None) -> bool:
    markers = {found.key: marker} if marker else {}
    return list(whole_objects(made, [found], markers, NOON)) == [found]


def test_an_empty_object_is_not_whole() -> None:
    assert is_whole(rule(), an_object())
    assert is_whole(rule(), an_object(modified=NOON + timedelta(seconds=1)))
    assert not is_whole(rule(), an_object(size=0))


def test_with_a_marker_it_is_whole_when_the_marker_is_not_older() -> None:
    marked = rule(marker=".ready")
    earlier, later = NOON - timedelta(seconds=1), NOON + timedelta(seconds=1)

    assert not is_whole(marked, an_object())
    assert not is_whole(marked, an_object(), an_object("m", modified=earlier))
    assert is_whole(marked, an_object(), an_object("m", modified=NOON, size=0))
    assert is_whole(marked, an_object(), an_object("m", modified=later))


def test_it_is_stable_when_it_has_not_changed_for_so_long() -> None:
    stable = rule(stable_s=60)

    assert not is_whole(stable, an_object(modified=NOON - timedelta(seconds=59)))
    assert is_whole(stable, an_object(modified=NOON - timedelta(seconds=60)))
