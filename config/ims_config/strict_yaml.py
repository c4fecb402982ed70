"""YAML (and JSON, which is YAML too) as people write it: nothing in it silently wins or changes."""

from typing import Any

import yaml


class InvalidYaml(ValueError):
    """The text is no YAML, or says something twice; the message names the place."""


def parse_yaml(text: str) -> Any:
    """What a YAML or JSON text holds; a key given twice is an error. Raises InvalidYaml."""
    try:
        return yaml.load(text, Loader=_OnceLoader)  # noqa: S506  # a safe loader of ours
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise InvalidYaml(f"{place}{exc.problem or exc.context}") from exc
    except (yaml.YAMLError, RecursionError, ValueError) as exc:
        raise InvalidYaml(f"is no YAML: {exc}") from exc


class _OnceLoader(yaml.SafeLoader):
    """Refuses a key that is there twice: the second would silently win."""


def _mapping(loader: _OnceLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    loader.flatten_mapping(node)
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str):
            raise yaml.constructor.ConstructorError(
                None, None, f"key {key!r} must be text", key_node.start_mark
            )
        if key in seen:
            raise yaml.constructor.ConstructorError(
                None, None, f"key {key!r} is there twice", key_node.start_mark
            )
        seen.add(key)
    made: dict[Any, Any] = loader.construct_mapping(node, deep=True)
    return made


_OnceLoader.add_constructor("tag:yaml.org,2002:map", _mapping)
# Dates would come as such, and an os_version or a tag may look like one.
_OnceLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
