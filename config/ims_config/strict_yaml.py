"""Parses YAML and JSON files of users strictly: no duplicate keys, no implicit dates."""

from collections.abc import Hashable

import yaml


class InvalidYaml(ValueError):
    """The text is not valid YAML or repeats a key; the message contains the position."""


def parse_yaml(text: str) -> object:
    """Parse YAML or JSON. Raises InvalidYaml, also for a duplicate key."""
    try:
        return yaml.load(text, Loader=_StrictLoader)  # noqa: S506  # a subclass of SafeLoader
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise InvalidYaml(f"{place}{exc.problem or exc.context}") from exc
    except (yaml.YAMLError, RecursionError, ValueError) as exc:
        raise InvalidYaml(f"invalid YAML: {exc}") from exc


class _StrictLoader(yaml.SafeLoader):
    """Rejects duplicate keys: YAML would silently use the last value."""


def _mapping(loader: _StrictLoader, node: yaml.MappingNode) -> dict[Hashable, object]:
    loader.flatten_mapping(node)
    seen: set[str] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str):
            raise yaml.constructor.ConstructorError(
                None, None, f"key {key!r} must be text", key_node.start_mark
            )
        if key in seen:
            raise yaml.constructor.ConstructorError(
                None, None, f"duplicate key {key!r}", key_node.start_mark
            )
        seen.add(key)
    mapping: dict[Hashable, object] = loader.construct_mapping(node, deep=True)
    return mapping


_StrictLoader.add_constructor("tag:yaml.org,2002:map", _mapping)
# An os_version or a tag that looks like a date stays text.
_StrictLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
