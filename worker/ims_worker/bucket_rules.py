"""Bucket rules: which objects become images, when, and under which name. No I/O."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import PurePosixPath
from string import Formatter
from typing import Any, Final, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from ims_config.import_request import (
    ImportRequest,
    InvalidRequest,
    Strict,
    parse_request,
    usual_names,
)
from ims_config.strict_yaml import InvalidYaml, parse_yaml
from ims_config.validation import FieldError, InvalidInput, field_errors

KEY_PREFIX: Final = "watch/"
# Fields of the template of an image's name.
FIELDS: Final = ("stem", "date", "etag", "rule")
_SHORT_ETAG: Final = 8
_NOT_IN_A_NAME: Final = re.compile(r"[^\w\-.]+")
_LONGEST_NAME: Final = 128
_SOME_TIME: Final = datetime(2026, 1, 1, tzinfo=UTC)


class InvalidRules(InvalidInput):
    """The file of bucket rules breaks rules itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredObject:
    """An object of a bucket. `size` in bytes."""

    key: str
    etag: str
    size: int
    modified: datetime


class Rule(Strict):
    """Objects of a bucket that become images."""

    name: str = Field(pattern=r"^[A-Za-z0-9._\-]{1,64}$")
    """The ledger stores the imported objects under it: a renamed rule imports them again."""
    bucket: str
    prefix: str = ""
    suffix: str = ""
    image_name: str = "{stem}-{etag}"
    marker: str | None = Field(None, min_length=1)
    """An object is complete when a marker, its key plus this suffix, exists and is not older."""
    stable_s: float = Field(0, ge=0)
    """An object is complete when it has not changed for this many seconds."""
    request: dict[str, Any] = Field(default_factory=dict)

    @field_validator("image_name")
    @classmethod
    def check_template(cls, value: str) -> str:
        try:
            parts = list(Formatter().parse(value))
        except ValueError as exc:
            raise ValueError(f"is no template: {exc}") from exc
        for _, field, spec, conversion in parts:
            if field is not None and (field not in FIELDS or spec or conversion):
                known = ", ".join(f"{{{name}}}" for name in FIELDS)
                raise ValueError(f"may hold {known}; not {{{field}}}")
        return value

    @field_validator("request")
    @classmethod
    def check_request(cls, value: dict[str, Any]) -> dict[str, Any]:
        if taken := {"name", "image_url"} & set(usual_names(value)):
            raise ValueError(f"{', '.join(sorted(taken))}: comes from the object, see image_name")
        return value

    @model_validator(mode="after")
    def check_with_an_object(self) -> "Rule":
        sample = StoredObject(
            key=f"{self.prefix}sample{self.suffix}", etag="0" * 32, size=1, modified=_SOME_TIME
        )
        try:
            self.request_for(sample)
        except InvalidRequest as exc:
            raise ValueError(f"its imports would be refused: {'; '.join(exc.problems)}") from None
        return self

    def matches(self, key: str) -> bool:
        """Whether this is the key of an object that is meant (and not of a marker or folder)."""
        marked = self.marker is not None and key.endswith(self.marker)
        return (
            key.startswith(self.prefix)
            and key.endswith(self.suffix)
            and not key.endswith("/")
            and not marked
        )

    def marked_by(self, key: str) -> str | None:
        """The key of the object whose marker has this key."""
        if self.marker is None or not key.endswith(self.marker):
            return None
        marked = key.removesuffix(self.marker)
        return marked if self.matches(marked) else None

    def is_whole(self, found: StoredObject, marker: StoredObject | None, now: datetime) -> bool:
        """Whether the upload is complete; `now` is the time of the storage's clock."""
        if found.size == 0:
            return False
        if self.marker is not None and (marker is None or marker.modified < found.modified):
            return False
        # Times of the storage may be a moment ahead of its clock.
        return not self.stable_s or now - found.modified >= timedelta(seconds=self.stable_s)

    def image_url(self, key: str) -> str:
        return f"{self.bucket}:{key}"

    def request_for(self, found: StoredObject) -> ImportRequest:
        """The import request for an object. Raises InvalidRequest."""
        stem = PurePosixPath(found.key.removesuffix(self.suffix) or found.key).name
        name = self.image_name.format(
            stem=_NOT_IN_A_NAME.sub("-", stem),
            date=f"{found.modified:%Y%m%d}",
            etag=found.etag[:_SHORT_ETAG],
            rule=self.name,
        )
        url = self.image_url(found.key)
        return parse_request(self.request | {"name": name[:_LONGEST_NAME], "image_url": url})

    def idempotency_key(self, found: StoredObject) -> str:
        """The same key for the same content of an object, however often it is listed."""
        content = f"{self.bucket}:{found.key}\n{found.etag}".encode("utf-8", "replace")
        return f"{KEY_PREFIX}{self.name}/{hashlib.sha256(content).hexdigest()[:32]}"


class Rules(Strict):
    """The rules file."""

    version: Literal[1]
    rules: tuple[Rule, ...] = Field(min_length=1)

    @field_validator("rules")
    @classmethod
    def check_names(cls, value: tuple[Rule, ...]) -> tuple[Rule, ...]:
        names = [rule.name for rule in value]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"names must differ; twice: {', '.join(twice)}")
        return value


def parse_rules(text: str, *, filename: str = "") -> Rules:
    """Parse a rules file; one named `.json` must be JSON. Raises InvalidRules with all problems."""
    try:
        raw = parse_yaml(text, filename=filename)
    except InvalidYaml as exc:
        raise InvalidRules(str(exc)) from None
    if not isinstance(raw, Mapping):
        raise InvalidRules(FieldError("rules", "must be an object", type(raw).__name__))
    try:
        return Rules.model_validate(raw)
    except ValidationError as exc:
        raise InvalidRules(*field_errors(exc, root="rules")) from None


def whole_objects(
    rule: Rule,
    objects: Iterable[StoredObject],
    markers: Mapping[str, StoredObject],
    now: datetime,
) -> Iterator[StoredObject]:
    """The objects that are complete and match; `markers` by the key of their object."""
    for found in objects:
        if rule.matches(found.key) and rule.is_whole(found, markers.get(found.key), now):
            yield found
