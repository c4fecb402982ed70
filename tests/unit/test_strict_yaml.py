"""YAML 1.2 and JSON files of users: values mean what they show, repeated keys are errors."""

import json
import math
import re
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ims_config.strict_yaml import InvalidYaml, parse_yaml

# Plain scalars that some version of YAML takes for a number, a boolean, a time or a date.
AMBIGUOUS = [
    "0123", "22:30", "1:2:3", "1_000", "0x10", "0o17", "0b11", "1e3", "1.10", "+1", "-0", ".5",
    "1.", ".inf", ".nan", "true", "True", "yes", "no", "on", "off", "y", "2026-11-25", "=",
]  # fmt: skip
plain_texts = st.sampled_from(AMBIGUOUS) | st.from_regex(
    r"[A-Za-z0-9.+_][A-Za-z0-9.+_\-:]{0,10}[A-Za-z0-9.+_]", fullmatch=True
).filter(lambda text: text.lower() != "null")


def problem_of(text: str, **options: Any) -> str:
    with pytest.raises(InvalidYaml) as caught:
        parse_yaml(text, **options)
    return str(caught.value)


def position_of(problem: str) -> tuple[int, int]:
    found = re.match(r"line (\d+), column (\d+): ", problem)
    assert found, problem
    return int(found[1]), int(found[2])


# --- values ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("040", 40), ("08", 8), ("-7", -7), ("+7", 7), ("0o40", 32), ("0x1F", 31),
        ("1.5", 1.5), ("1e3", 1000.0), (".5", 0.5), ("1.", 1.0), (".inf", math.inf),
        ("-.INF", -math.inf), ("true", True), ("FALSE", False), ("~", None), ("", None),
        ("null", None), ("Null", None),
        ("1_000", "1_000"), ("22:30", "22:30"), ("0b11", "0b11"), ("yes", "yes"), ("Off", "Off"),
        ("2026-01-01", "2026-01-01"), ("'040'", "040"), ('"true"', "true"), ("=", "="),
        ("!!str 040", "040"), ("!!int '040'", 40), ("!!float 1", 1.0),
    ],
)  # fmt: skip
def test_a_scalar_has_the_type_of_the_core_schema_of_yaml_1_2(written: str, value: object) -> None:
    assert parse_yaml(f"min_disk: {written}") == {"min_disk": value}


@given(st.dictionaries(plain_texts, plain_texts, min_size=1))
def test_keys_and_values_of_tags_stay_as_they_are_written(tags: dict[str, str]) -> None:
    block = "tags:\n" + "".join(f"  {key}: {text}\n" for key, text in tags.items())
    pairs = "".join(f"- {{key: {key}, value: {text}}}\n" for key, text in tags.items())

    assert parse_yaml(block) == {"tags": tags}
    assert parse_yaml(f"request:\n  {block.replace('  ', '    ')}") == {"request": {"tags": tags}}
    assert parse_yaml(f"image_tags:\n{pairs}") == {
        "image_tags": [{"key": key, "value": text} for key, text in tags.items()]
    }


@pytest.mark.parametrize("text", ["tags: {a: ~}", "tags: {a: }", "tags:\n  a: null", "tags:\n  a:"])
def test_a_tag_without_a_value_is_null(text: str) -> None:
    assert parse_yaml(text) == {"tags": {"a": None}}


def test_a_shared_mapping_is_text_where_it_is_used_as_tags() -> None:
    text = "common: &common {build: 0123}\ntags: *common\nmerged: {tags: {<<: *common, a: 010}}"

    assert parse_yaml(text) == {
        "common": {"build": 123},
        "tags": {"build": "0123"},
        "merged": {"tags": {"build": "0123", "a": "010"}},
    }


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a:\tb", {"a": "b"}),
        ("-\tb", ["b"]),
        ('# a comment\n{\n\t"a": [\n\t\t1,\t2\n\t]\n}', {"a": [1, 2]}),
        ("\ufeffa: b", {"a": "b"}),
        ("%YAML 1.2\n---\na: 010", {"a": 10}),
        ("", None),
    ],
)
def test_syntax_of_yaml_1_2_is_accepted(text: str, value: object) -> None:
    assert parse_yaml(text) == value


# --- merge keys and aliases -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("mapping", "value"),
    [
        ("{<<: *one, a: 3}", {"a": 3, "b": 1}),
        ("{a: 3, <<: *one}", {"a": 3, "b": 1}),
        ("{<<: [*one, *two]}", {"a": 1, "b": 1, "c": 2}),
        ("{<<: [*two, *one], c: 3}", {"a": 2, "b": 1, "c": 3}),
        ("{'<<': 1}", {"<<": 1}),
    ],
)
def test_own_fields_override_merged_ones(mapping: str, value: object) -> None:
    text = f"x: [&one {{a: 1, b: 1}}, &two {{a: 2, c: 2}}]\nmerged: {mapping}"

    parsed = parse_yaml(text)

    assert isinstance(parsed, dict)
    assert parsed["merged"] == value


@pytest.mark.parametrize(
    ("text", "position", "problem"),
    [
        ("a: &a {x: 1}\nb:\n  <<: *a\n  y: 1\n  y: 2", (5, 3), "duplicate key 'y'"),
        ("a: &a {x: 1}\nb:\n  <<: *a\n  <<: *a", (4, 3), "duplicate key '<<'"),
        ("a: 1\n<<: 2", (2, 5), "<< must name a mapping or a list of mappings"),
        ("a: &a\n  b: *a", (1, 4), "contains an alias of itself"),
        ("- &a [*a]", (1, 3), "contains an alias of itself"),
        ("a: *b", (1, 4), "found undefined alias"),
    ],
)
def test_a_broken_merge_or_alias_names_its_place(
    text: str, position: tuple[int, int], problem: str
) -> None:
    assert position_of(problem_of(text)) == position
    assert problem in problem_of(text)


@pytest.mark.parametrize(
    ("first", "next_ones"),
    [
        ("a0: &a0 [x, x]", "a{n}: &a{n} [*a{m}, *a{m}, *a{m}, *a{m}]"),
        ("a0: &a0 {x: 1}", "a{n}: &a{n} {{p: *a{m}, q: *a{m}, r: *a{m}, s: *a{m}}}"),
        ("a0: &a0 {x: 1}", "a{n}: &a{n} {{<<: [*a{m}, *a{m}, *a{m}, *a{m}]}}"),
    ],
)
def test_aliases_of_aliases_cannot_fill_the_memory(first: str, next_ones: str) -> None:
    bomb = "\n".join([first, *(next_ones.format(n=n, m=n - 1) for n in range(1, 30))])

    assert "aliases expand to more than 1000000 values" in problem_of(bomb)


# --- errors ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "position"),
    [
        ("version: 1\n\timages: []", (2, 1)),
        ("a: [1, 2", (1, 9)),
        ("a: 1\nb: \x07", (2, 4)),
        ("a: 1\n---\nb: 1", (2, 1)),
        ("a: !!python/name:os.system x", (1, 4)),
        ("a: !mine {}", (1, 4)),
        ("a: !!int x", (1, 4)),
        ("? [a]\n: 1", (1, 3)),
        ("a: " + "9" * 5000, (1, 4)),
        ("[" * 5000, (1, 1)),
    ],
)
def test_each_error_has_a_line_and_a_column(text: str, position: tuple[int, int]) -> None:
    assert position_of(problem_of(text)) == position


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(values, st.sampled_from([None, "\t", "  "]), st.booleans())
def test_json_has_the_same_values_as_in_any_other_parser(
    value: object,
    indent: str | None,
    ascii_only: bool,  # noqa: FBT001  # a table
) -> None:
    document = {"a": value}

    text = json.dumps(document, indent=indent, ensure_ascii=ascii_only)

    assert parse_yaml(text) == document
    assert parse_yaml(text, filename="a.JSON") == document


@given(st.lists(st.sampled_from(["mapping", "list"]), max_size=5), st.integers(1, 5), st.booleans())
def test_a_repeated_key_is_an_error_at_any_depth_with_its_line(
    outer: list[str],
    fillers: int,
    as_json: bool,  # noqa: FBT001  # a table
) -> None:
    lines = ["{", '"twice": "}{:,",', *(f'"f{n}": "\\"twice\\":",' for n in range(fillers)),
             '"twice": 2', "}"]  # fmt: skip
    for kind in outer:
        before, after = ("[{}, 1,", "]") if kind == "list" else ('{"twice": 0, "x":', "}")
        lines = [before, *lines, after]
    text = "\n".join(lines) if as_json else "# YAML\n" + "\n".join(lines)

    problem = problem_of(text)

    assert "duplicate key 'twice'" in problem
    line, column = position_of(problem)
    last = max(n for n, content in enumerate(text.split("\n"), 1) if content == '"twice": 2')
    assert (line, column) == (last, 1)


@pytest.mark.parametrize(
    ("text", "position"),
    [('{"a": 1,}', (1, 9)), ("{a: 1}", (1, 2)), ("a: 1", (1, 1)), ('{"a":\n  1 2}', (2, 5))],
)
def test_a_file_named_json_must_be_json(text: str, position: tuple[int, int]) -> None:
    line, column = position_of(problem_of(text, filename="images.json"))

    assert line == position[0]
    assert abs(column - position[1]) <= 1  # Python 3.13 points to the comma, older ones after it


def test_a_flow_mapping_of_yaml_needs_no_quotes() -> None:
    assert parse_yaml("{a: 010, tags: {b: 010}}") == {"a": 10, "tags": {"b": "010"}}


@given(values)
def test_quoted_yaml_of_other_tools_is_read_back(value: Any) -> None:
    text = yaml.safe_dump({"a": value}, default_style='"')

    assert parse_yaml(text) == {"a": value}


@pytest.mark.parametrize("escape", [r"\U00110000", r"\UFFFFFFFF"])
def test_an_escape_outside_unicode_is_an_error_of_the_file(escape: str) -> None:
    with pytest.raises(InvalidYaml, match="invalid escape"):
        parse_yaml(f'a: "{escape}"')
