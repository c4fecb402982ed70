"""Tags of an image: the forms in which users write them, and the rules of IMS."""

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Final

from pydantic import BeforeValidator, WithJsonSchema

from ims_config.names import IMPORT_ID_TAG
from ims_config.validation import shown

# IMS accepts ten tags per image; one of them is IMPORT_ID_TAG.
MAX_TAGS: Final = 9
_TAG_KEY: Final = re.compile(r"[A-Za-z0-9_\-]{1,36}")
_TAG_VALUE: Final = re.compile(r"[A-Za-z0-9_\-]{0,43}")


def tag_pairs(value: object) -> Iterable[tuple[str, str]]:
    match value:
        case Mapping():
            return [(str(key), _tag_text(text)) for key, text in value.items()]
        case None:
            return []
        case list() | tuple():
            return [_tag_pair(tag) for tag in value]
        case _:
            raise ValueError("must be a list of KEY=VALUE or an object")


def _tag_pair(tag: object) -> tuple[str, str]:
    """`key=value`, or as IMS writes tags: `key.value` or an object with `key` and `value`."""
    if isinstance(tag, Mapping):
        if "key" not in tag or not tag.keys() <= {"key", "value"}:
            raise ValueError(f"must be an object with key and value, not {shown(tag)}")
        value = tag.get("value")
        return _tag_text(tag["key"]), "" if value is None else _tag_text(value)
    text = _tag_text(tag)
    # Neither a key nor a value can contain one of the signs, so a tag has only one meaning.
    for sign in "=.":
        key, found, value = text.partition(sign)
        if found:
            return key, value
    raise ValueError(f"must be KEY=VALUE, e.g. team=platform; {text!r} has no '=' and no '.'")


def _tag_text(value: object) -> str:
    # YAML parses a value like 42 as a number.
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError(f"values must be text, not {value!r}")  # noqa: TRY004  # as pydantic needs
    return str(value)


def _parsed(value: object) -> dict[str, str]:
    tags: dict[str, str] = {}
    for raw_key, raw_text in tag_pairs(value):
        # IMS strips spaces too; stripped here, the record shows what the image has.
        key, text = raw_key.strip(" "), raw_text.strip(" ")
        if not _TAG_KEY.fullmatch(key):
            raise ValueError(f"key {key!r} must be 1 to 36 letters, digits, '_' or '-'")
        if not _TAG_VALUE.fullmatch(text):
            raise ValueError(f"value {text!r} must be 0 to 43 letters, digits, '_' or '-'")
        if key == IMPORT_ID_TAG:
            raise ValueError(f"key {key!r} is reserved for ims-import")
        tags[key] = text
    if len(tags) > MAX_TAGS:
        raise ValueError(f"must be at most {MAX_TAGS}: IMS accepts 10 and ims-import adds one")
    return tags


Tags = Annotated[
    dict[str, str],
    BeforeValidator(_parsed),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "object", "additionalProperties": {"type": ["string", "integer"]}},
                {
                    "type": "array",
                    "items": {
                        "anyOf": [
                            {"type": "string", "pattern": "[=.]", "examples": ["team=platform"]},
                            {
                                "type": "object",
                                "properties": {
                                    "key": {"type": ["string", "integer"]},
                                    "value": {"type": ["string", "integer", "null"]},
                                },
                                "required": ["key"],
                                "additionalProperties": False,
                            },
                        ]
                    },
                },
                {"type": "null"},
            ]
        }
    ),
]
