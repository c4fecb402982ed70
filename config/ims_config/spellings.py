"""Other names of fields, as IMS and Terraform have them, and null for a field that is absent."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from ims_config.validation import FieldError, InvalidInput

# `image_tags` is IMS's own name; the others are those of Terraform's generic image resource.
SPELLINGS: Final[Mapping[str, str]] = {
    "image_tags": "tags",
    "min_disk_gb": "min_disk",
    "min_ram_mb": "min_ram",
}


def rename_fields(raw: Mapping[str, object]) -> dict[str, object]:
    """The same fields under the names of ImportRequest.

    Raises InvalidInput if a field is present under both of its names.
    """
    fields = dict(raw)
    for spelling in SPELLINGS.keys() & raw.keys():
        name, value = SPELLINGS[spelling], fields.pop(spelling)
        if fields.get(name) is None:
            fields[name] = value
        elif value is not None:
            raise InvalidInput(FieldError(spelling, f"is another name of {name}: use one of them"))
    return fields


def present(fields: Mapping[str, object], known: Iterable[str]) -> dict[str, object]:
    """Without those of the known fields that are null. An unknown field stays, to be refused."""
    absent = {name for name in known if name in fields and fields[name] is None}
    return {name: value for name, value in fields.items() if name not in absent}


def describe_spellings(schema: dict[str, Any]) -> None:
    """Add the other names, and null for each optional field, to the JSON Schema of a model."""
    properties: dict[str, Any] = schema["properties"]
    mandatory: list[str] = schema["required"]
    for name in properties.keys() - set(mandatory):
        properties[name] = _nullable(properties[name])
    for spelling, name in SPELLINGS.items():
        if name in properties:
            properties[spelling] = properties[name] | {"description": f"another name of {name}"}
        if name in mandatory:
            mandatory.remove(name)
            schema["anyOf"] = [{"required": [name]}, {"required": [spelling]}]


def _nullable(schema: dict[str, Any]) -> dict[str, Any]:
    if {"type": "null"} in schema.get("anyOf", []):
        return schema
    shared = {key: schema.pop(key) for key in ("default", "description", "title") if key in schema}
    return {"anyOf": [schema, {"type": "null"}]} | shared
