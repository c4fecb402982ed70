"""Parses YAML 1.2 and JSON files of users strictly: no duplicate keys, no surprising values.

PyYAML reads the syntax. Its rules for values are those of YAML 1.1, where 040 is 32 and 22:30 is
1350, so this module applies the core schema of YAML 1.2 instead.
"""

import json
import math
import re
from collections.abc import Iterator
from typing import Final

import yaml

# Values of a file after each alias is replaced by what it stands for. Aliases of aliases multiply:
# a few lines could otherwise fill the memory.
MAX_VALUES: Final = 1_000_000

# To IMS the values of tags are text: a build number keeps its zeros, a version its last digit.
_TEXT_FIELDS: Final = frozenset({"tags", "image_tags"})

_NAMESPACE: Final = "tag:yaml.org,2002:"
_TEXT, _NULL, _BOOL, _INT, _FLOAT = (
    _NAMESPACE + name for name in ("str", "null", "bool", "int", "float")
)
# What a plain scalar of each type looks like, and the characters that it may start with.
_CORE_SCHEMA: Final = {
    _NULL: (re.compile(r"(?:~|null|Null|NULL|)\Z"), ["~", "n", "N", ""]),
    _BOOL: (re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z"), list("tTfF")),
    _INT: (re.compile(r"(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)\Z"), list("-+0123456789")),
    _FLOAT: (
        re.compile(
            r"(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
            r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z"
        ),
        list("-+.0123456789"),
    ),
}
# Python refuses to parse integers of more than 4300 digits.
_TOO_LONG: Final = "a number has too many digits"
# A string, with its colon if it is a key, or a bracket.
_JSON_TOKEN: Final = re.compile(r'(?P<text>"(?:[^"\\]|\\.)*")(?P<colon>\s*:)?|[{}\[\]]')


class InvalidYaml(ValueError):
    """The text is neither YAML nor JSON, or repeats a key; the message starts with the position."""


def parse_yaml(text: str, *, filename: str = "") -> object:
    """Parse YAML or JSON. Raises InvalidYaml, also for a duplicate key.

    A file named `.json` must be JSON. In YAML, keys and values inside `tags` are text as written.
    """
    text = text.removeprefix("\ufeff")
    try:
        if filename.lower().endswith(".json"):
            return _parse_json(text)
        if text.lstrip().startswith(("{", "[")):
            try:
                return _parse_json(text)
            except json.JSONDecodeError:
                pass  # a flow collection of YAML
        return _parse_yaml(text)
    except json.JSONDecodeError as exc:
        raise _invalid(exc.lineno, exc.colno, exc.msg) from None
    except RecursionError:
        raise _invalid(1, 1, "is nested too deeply") from None


def _invalid(line: int, column: int, problem: str) -> InvalidYaml:
    """`line` and `column` start at 1."""
    return InvalidYaml(f"line {line}, column {column}: {problem}")


def _invalid_at(text: str, index: int, problem: str) -> InvalidYaml:
    line_start = text.rfind("\n", 0, index) + 1
    return _invalid(text.count("\n", 0, index) + 1, index - line_start + 1, problem)


# --- JSON -----------------------------------------------------------------------------------


def _parse_json(text: str) -> object:
    """Raises JSONDecodeError if the text is no JSON, and InvalidYaml for a duplicate key."""
    repeats = False

    def build(pairs: list[tuple[str, object]]) -> dict[str, object]:
        nonlocal repeats
        built = dict(pairs)
        repeats = repeats or len(built) < len(pairs)
        return built

    try:
        value: object = json.loads(text, object_pairs_hook=build)
    except json.JSONDecodeError:
        raise
    except ValueError:
        raise _invalid(1, 1, _TOO_LONG) from None
    if repeats:
        raise next(_duplicate_keys(text))
    return value


def _duplicate_keys(text: str) -> Iterator[InvalidYaml]:
    """The repeated keys of valid JSON, in order: its parser does not tell where they are."""
    open_collections: list[set[str]] = []
    for token in _JSON_TOKEN.finditer(text):
        if token["colon"]:
            key: str = json.loads(token["text"])
            if key in open_collections[-1]:
                yield _invalid_at(text, token.start(), f"duplicate key {key!r}")
            open_collections[-1].add(key)
        elif token[0] in "{[":
            open_collections.append(set())
        elif token[0] in "}]":
            open_collections.pop()


# --- YAML -----------------------------------------------------------------------------------


class _CoreLoader(yaml.BaseLoader):
    """The syntax of YAML with the types of the core schema of YAML 1.2."""

    def scan_to_next_token(self) -> None:
        # YAML allows tabs between tokens, but not as indentation.
        super().scan_to_next_token()
        while self.peek() == "\t" and (self.flow_level or not self._is_indentation()):
            self.forward()
            super().scan_to_next_token()

    def _is_indentation(self) -> bool:
        before: str = self.buffer[self.pointer - self.column : self.pointer]
        return not before.strip(" \t")


for _tag, (_pattern, _starts) in _CORE_SCHEMA.items():
    _CoreLoader.add_implicit_resolver(_tag, _pattern, _starts)


def _parse_yaml(text: str) -> object:
    try:
        node = yaml.compose(text, Loader=_CoreLoader)
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        raise _invalid(line, column, str(exc.problem or exc.context)) from exc
    except yaml.reader.ReaderError as exc:
        problem = f"must not contain the character {chr(int(exc.character))!r}"
        raise _invalid_at(text, exc.position, problem) from exc
    except (ValueError, OverflowError) as exc:
        raise _invalid(1, 1, f"must not contain an invalid escape: {exc}") from exc
    return None if node is None else _Values().of(node)


class _Values:
    """The values that the nodes of one file stand for."""

    def __init__(self) -> None:
        self._count = 0
        self._open: set[int] = set()

    def of(self, node: yaml.Node, *, as_text: bool = False) -> object:
        """Raises InvalidYaml."""
        self._count += 1
        if self._count > MAX_VALUES:
            raise _refused(node, f"aliases expand to more than {MAX_VALUES} values")
        if isinstance(node, yaml.ScalarNode):
            return _scalar(node, as_text=as_text)
        if id(node) in self._open:
            raise _refused(node, "contains an alias of itself")
        self._open.add(id(node))
        try:
            return self._collection(node, as_text=as_text)
        finally:
            self._open.remove(id(node))

    def _collection(self, node: yaml.Node, *, as_text: bool) -> object:
        if isinstance(node, yaml.MappingNode) and node.tag == f"{_NAMESPACE}map":
            return self._mapping(node, as_text=as_text)
        if isinstance(node, yaml.SequenceNode) and node.tag == f"{_NAMESPACE}seq":
            return [self.of(item, as_text=as_text) for item in node.value]
        raise _refused(node, f"unknown tag {node.tag!r}")

    def _mapping(self, node: yaml.MappingNode, *, as_text: bool) -> dict[str, object]:
        merged: dict[str, object] = {}
        own: dict[str, object] = {}
        seen: set[str] = set()
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise _refused(key_node, "a key must be text")
            key = str(key_node.value)
            if key in seen:
                raise _refused(key_node, f"duplicate key {key!r}")
            seen.add(key)
            if key == "<<" and key_node.style is None:
                merged = self._merged(value_node, as_text=as_text)
            else:
                own[key] = self.of(value_node, as_text=as_text or key in _TEXT_FIELDS)
        return merged | own

    def _merged(self, node: yaml.Node, *, as_text: bool) -> dict[str, object]:
        """The fields of a mapping, or of several, of which the first has precedence."""
        merged: dict[str, object] = {}
        for source in node.value if isinstance(node, yaml.SequenceNode) else [node]:
            fields = self.of(source, as_text=as_text)
            if not isinstance(fields, dict):
                raise _refused(source, "<< must name a mapping or a list of mappings")
            merged = fields | merged
        return merged


def _scalar(node: yaml.ScalarNode, *, as_text: bool) -> object:
    text = str(node.value)
    if node.tag == _TEXT:
        return text
    if node.tag not in _CORE_SCHEMA:
        raise _refused(node, f"unknown tag {node.tag!r}")
    if not _CORE_SCHEMA[node.tag][0].match(text):
        raise _refused(node, f"{text!r} is no {node.tag.removeprefix(_NAMESPACE)}")
    if node.tag == _NULL:
        return None
    try:
        return text if as_text else _typed(node.tag, text.lower())
    except ValueError:
        raise _refused(node, _TOO_LONG) from None


def _typed(tag: str, text: str) -> bool | int | float:
    """The value of a plain scalar in lower case that has this type."""
    if tag == _BOOL:
        return text == "true"
    if tag == _INT:
        return int(text, 0) if text[1:2] in ("o", "x") else int(text)
    if text.endswith((".inf", ".nan")):
        return math.nan if text == ".nan" else float(text.replace(".", ""))
    return float(text)


def _refused(node: yaml.Node, problem: str) -> InvalidYaml:
    mark = node.start_mark
    return _invalid(mark.line + 1, mark.column + 1, problem)
