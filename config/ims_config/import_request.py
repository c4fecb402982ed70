"""The import request: what may be asked of IMS, and the one clear message for what may not.

Rules: IMS API reference, "Creating an Image", "Importing an Image File Quickly", "Creating a
Data Disk Image from an External Image File" and "Image Tag Format".
"""

import json
import re
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Annotated, Any, Final, Literal, Self
from uuid import UUID

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from ims_config.names import IMPORT_ID_TAG
from ims_config.validation import FieldError, InvalidInput, field_errors, shown
from ims_config.webhooks import LONGEST_URL as LONGEST_WEBHOOK_URL
from ims_config.webhooks import URL_PATTERN as WEBHOOK_URL_PATTERN
from ims_config.webhooks import check_url as check_webhook_url

# IMS takes ten tags an image; one of them is ours (IMPORT_ID_TAG).
MAX_TAGS: Final = 9
MAX_DATA_IMAGES: Final = 3
# OTC's console asks for 40 GB although the API takes 1: worth a word, not a refusal.
USUAL_MIN_DISK_GIB: Final = 40

# Where the file of an adopted job lies is known to IMS alone.
ADOPTED_URL: Final = "unknown:adopted"

_NAME = re.compile(r"[\w\-. ]{1,128}")
_TAG_KEY = re.compile(r"[A-Za-z0-9_\-]{1,36}")
_TAG_VALUE = re.compile(r"[A-Za-z0-9_\-]{0,43}")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.\-]{1,61}[a-z0-9]")
_KEY_BYTES: Final = 1024
# Databases take no NUL, UTF-8 no lone surrogate, and no name or version needs the others.
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_CLOUD = re.compile(r"[\w\-.]{1,64}")


class Kind(StrEnum):
    """Which of IMS's imports is meant."""

    SYSTEM = "system"
    DATA = "data"
    QUICK = "quick"
    ISO = "iso"


class Priority(StrEnum):
    """Who goes first among imports that wait for a slot in a project."""

    LOW = "low"
    NORMAL = "normal"
    HIGH = "high"

    @property
    def rank(self) -> int:
        """The higher the sooner."""
        return {"low": -1, "normal": 0, "high": 1}[self.value]


class InvalidRequest(InvalidInput):
    """The request breaks rules of IMS."""


def _image_name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise ValueError(
            "must be 1 to 128 letters, digits, spaces, hyphens, underscores or full stops"
        )
    if value != value.strip(" "):
        raise ValueError("must not start or end with a space")
    return value


def _printable(value: str) -> str:
    if _UNPRINTABLE.search(value):
        raise ValueError("must not hold line breaks or other control characters")
    return value


def _description(value: str) -> str:
    if re.search(r"[\r\n<>]", value):
        raise ValueError("must not hold line breaks, '<' or '>'")
    return _printable(value)


def _image_url(value: str) -> str:
    # Split at the first colon: bucket names cannot hold one, object keys can.
    bucket, colon, key = value.partition(":")
    if not colon or not bucket or not key:
        raise ValueError("must be BUCKET:KEY, e.g. my-bucket:images/ubuntu.qcow2")
    if key.startswith("//"):
        raise ValueError("must be BUCKET:KEY of OBS, not a URL with '//'")
    if not _BUCKET.fullmatch(bucket):
        raise ValueError(
            "must start with a bucket name of 3 to 63 lower-case letters, digits, '-' or '.'"
        )
    if re.search(r"\s", key):
        raise ValueError("must not hold spaces (IMS answers IMG.0175)")
    if len(_printable(key).encode()) > _KEY_BYTES:
        raise ValueError("must have a key of at most 1024 bytes")
    return value


def _tag_pairs(value: Any) -> Iterable[tuple[str, str]]:
    match value:
        case Mapping():
            return [(str(key), _tag_text(text)) for key, text in value.items()]
        case None:
            return []
        case list() | tuple():
            pairs = []
            for tag in value:
                key, equals, text = str(tag).partition("=")
                if not equals:
                    raise ValueError(f"must be KEY=VALUE, e.g. team=platform; {tag!r} has no '='")
                pairs.append((key, text))
            return pairs
        case _:
            raise ValueError("must be a list of KEY=VALUE or an object")


def _tag_text(value: Any) -> str:
    # YAML makes numbers of what looks like one.
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError(f"values must be text; {value!r} is none")  # noqa: TRY004  # pydantic's way
    return str(value)


def _tags(value: Any) -> dict[str, str]:
    tags: dict[str, str] = {}
    for raw_key, raw_text in _tag_pairs(value):
        # IMS strips surrounding spaces itself; we do it first so that what is shown is what is.
        key, text = raw_key.strip(" "), raw_text.strip(" ")
        if not _TAG_KEY.fullmatch(key):
            raise ValueError(f"key {key!r} must be 1 to 36 letters, digits, '_' or '-'")
        if not _TAG_VALUE.fullmatch(text):
            raise ValueError(f"value {text!r} must be 0 to 43 letters, digits, '_' or '-'")
        if key == IMPORT_ID_TAG:
            raise ValueError(f"key {key!r} is ims-import's own")
        tags[key] = text
    if len(tags) > MAX_TAGS:
        raise ValueError(f"must be at most {MAX_TAGS}: IMS takes 10 and one is ims-import's own")
    return tags


def _project_id(value: str) -> str:
    if value in ("", "0"):
        return value
    try:
        UUID(value)
    except ValueError as exc:
        raise ValueError("must be 0 (the default project) or a UUID") from exc
    return value


ImageName = Annotated[str, BeforeValidator(lambda v: _image_name(v) if isinstance(v, str) else v)]
Description = Annotated[str, StringConstraints(max_length=1024)]
Printable = AfterValidator(_printable)
ImageUrl = Annotated[
    str,
    Field(
        description="BUCKET:KEY of the image file in OBS",
        json_schema_extra={
            "pattern": r"^[a-z0-9][a-z0-9.\-]{1,61}[a-z0-9]:(?!//)\S+$",
            "examples": ["my-bucket:images/ubuntu-24.04.qcow2"],
        },
    ),
]
WebhookUrl = Annotated[
    str,
    AfterValidator(check_webhook_url),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": WEBHOOK_URL_PATTERN,
            "maxLength": LONGEST_WEBHOOK_URL,
            "examples": ["https://ci.example/hooks/images"],
        }
    ),
]
Tags = Annotated[
    dict[str, str],
    BeforeValidator(_tags),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "object", "additionalProperties": {"type": ["string", "integer"]}},
                {"type": "array", "items": {"type": "string", "pattern": "="}},
                {"type": "null"},
            ]
        }
    ),
]


class Strict(BaseModel):
    # `strict` for numbers and booleans would refuse what a CLI or YAML gives; unknown fields are
    # refused because a misspelt one would silently do nothing.
    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=False)


class DataImage(Strict):
    """A data disk that is imported together with a system image."""

    name: ImageName | None = None
    description: Description | None = None
    image_url: ImageUrl
    min_disk: Annotated[int, Field(ge=1, le=2048)]
    is_quick_import: bool | None = None
    tags: Tags = Field(default_factory=dict)

    check_url = field_validator("image_url")(_image_url)

    @field_validator("description")
    @classmethod
    def check_description(cls, value: str | None) -> str | None:
        return None if value is None else _description(value)


class ImportRequest(Strict):
    """One image to make from one file in OBS. Sizes: `min_disk` in GB, memory in MB."""

    kind: Kind = Kind.SYSTEM
    name: ImageName
    image_url: ImageUrl
    min_disk: int
    cloud: str | None = Field(None, description="entry of the worker's clouds.yaml")
    priority: Priority = Field(Priority.NORMAL, description="who goes first where imports wait")
    description: Description | None = None
    os_type: Literal["Linux", "Windows", "Other"] | None = None
    os_version: (
        Annotated[str, StringConstraints(min_length=1, max_length=255), Printable] | None
    ) = None
    is_config: bool | None = None
    is_config_init: bool | None = Field(
        None, description="accepted for old scripts and never sent: the API dropped it in 2022"
    )
    is_quick_import: bool | None = None
    cmk_id: Annotated[str, StringConstraints(min_length=1, max_length=128), Printable] | None = None
    tags: Tags = Field(default_factory=dict, description="KEY=VALUE list or an object")
    type: Literal["ECS", "FusionCompute", "BMS", "Ironic", "IsoImage", "DataImage"] | None = None
    enterprise_project_id: str | None = None
    min_ram: Annotated[int, Field(ge=0)] | None = None
    max_ram: Annotated[int, Field(gt=0)] | None = None
    data_images: tuple[DataImage, ...] = Field((), max_length=MAX_DATA_IMAGES)
    hw_firmware_type: Literal["bios", "uefi"] | None = None
    architecture: Literal["x86", "arm"] | None = None
    webhook_url: WebhookUrl | None = Field(None, description="who is told how the import stands")

    check_url = field_validator("image_url")(_image_url)

    @field_validator("description")
    @classmethod
    def check_description(cls, value: str | None) -> str | None:
        return None if value is None else _description(value)

    @field_validator("enterprise_project_id")
    @classmethod
    def check_project(cls, value: str | None) -> str | None:
        return None if value is None else _project_id(value)

    @field_validator("cloud")
    @classmethod
    def check_cloud(cls, value: str | None) -> str | None:
        if value is not None and not _CLOUD.fullmatch(value):
            raise ValueError("must be the name of an entry of clouds.yaml")
        return value

    @model_validator(mode="after")
    def check_together(self) -> Self:
        broken = [
            FieldError(field, rule, shown(getattr(self, field)))
            for field, rule, holds in self._rules()
            if not holds
        ]
        if broken:
            raise InvalidInput(*broken)
        return self

    def _rules(self) -> Iterable[tuple[str, str, bool]]:
        """(field, rule, holds) of all that depends on more than one field."""
        kind = self.kind
        data_disk = kind is Kind.DATA or self.type == "DataImage"
        top = 2048 if data_disk else 1024
        yield (
            "min_disk",
            f"must be 1 to {top} GB for a {'data disk' if data_disk else kind} image",
            1 <= self.min_disk <= top,
        )
        yield (
            "os_version",
            "is mandatory for an ISO (IMG.0166)",
            kind is not Kind.ISO or self.os_version is not None,
        )
        yield (
            "os_version",
            "is mandatory for a quick import (IMG.0159)",
            not (kind is Kind.QUICK or self.is_quick_import)
            or data_disk
            or self.os_version is not None,
        )
        yield (
            "type",
            "must be IsoImage or absent for kind iso",
            (kind is not Kind.ISO or self.type in (None, "IsoImage")),
        )
        yield "type", "IsoImage is for kind iso only", (self.type != "IsoImage" or kind is Kind.ISO)
        yield (
            "type",
            "DataImage is for kind quick only (kind data needs no type)",
            (self.type != "DataImage" or kind is Kind.QUICK),
        )
        yield "type", "is not a parameter of kind data", (kind is not Kind.DATA or not self.type)
        yield (
            "type",
            "must be ECS, BMS or DataImage for kind quick",
            (kind is not Kind.QUICK or self.type in (None, "ECS", "BMS", "DataImage")),
        )
        yield (
            "os_type",
            "must be Linux or Windows for a data disk image",
            (not data_disk or self.os_type in (None, "Linux", "Windows")),
        )
        yield (
            "hw_firmware_type",
            "must be uefi for architecture arm (IMG.0141)",
            (self.architecture != "arm" or self.hw_firmware_type in (None, "uefi")),
        )
        yield (
            "max_ram",
            "must not be less than min_ram",
            (self.max_ram is None or self.max_ram >= (self.min_ram or 0)),
        )
        for field in NOT_FOR.get(kind, ()):
            value = getattr(self, field)
            yield field, f"is not a parameter of kind {kind}", value is None or value == ()

    @property
    def bucket(self) -> str:
        return self.image_url.partition(":")[0]

    @property
    def object_key(self) -> str:
        return self.image_url.partition(":")[2]

    def warnings(self) -> list[str]:
        """What is allowed and still worth a word to the one who asks."""
        said = []
        if self.is_config_init is not None:
            said.append("is_config_init: not sent, the IMS API dropped it in 2022; see is_config")
        if self.min_disk < USUAL_MIN_DISK_GIB:
            said.append(
                f"min_disk: {self.min_disk} GB is allowed by the API, but the console asks for "
                f"{USUAL_MIN_DISK_GIB}; IMS may refuse it (IMG.0055)"
            )
        return said

    def as_message(self) -> dict[str, Any]:
        """Plain JSON with only what was given: for the queue, the ledger and `--json`."""
        return self.model_dump(mode="json", exclude_defaults=True) | {"kind": str(self.kind)}


# What says how an import is made and told of, not which image it makes.
ABOUT_THE_IMPORT: Final = frozenset({"priority", "webhook_url"})

# Parameters that exist in other variants of the call only (§3.1 and §3.2 of the API reference).
NOT_FOR: Final[Mapping[Kind, tuple[str, ...]]] = {
    Kind.DATA: (
        "os_version", "is_config", "is_quick_import", "min_ram", "max_ram", "data_images",
        "hw_firmware_type", "architecture",
    ),
    Kind.QUICK: ("is_config", "is_quick_import", "cmk_id", "min_ram", "max_ram", "data_images"),
    Kind.ISO: ("is_quick_import", "data_images"),
}  # fmt: skip


def parse_request(raw: Mapping[str, object], *, strict: bool = False) -> ImportRequest:
    """Check a request from a user or another system. Raises InvalidRequest.

    `strict` accepts numbers and booleans only as such, like a JSON Schema; otherwise "40" counts
    as 40, because command lines and YAML files hold text.
    """
    if not isinstance(raw, Mapping):
        raise InvalidRequest(FieldError("request", "must be an object", type(raw).__name__))
    try:
        if strict:
            # Strict in the sense of JSON, where an enum is a string and a tuple a list.
            return ImportRequest.model_validate_json(json.dumps(raw), strict=True)
        return ImportRequest.model_validate(dict(raw))
    except ValidationError as exc:
        raise InvalidRequest(*field_errors(exc)) from None


def parse_webhook_url(url: str) -> str:
    """The address, unchanged. Raises InvalidRequest if it breaks a rule."""
    try:
        return check_webhook_url(url)
    except ValueError as exc:
        raise InvalidRequest(FieldError("url", str(exc), shown(url))) from None
