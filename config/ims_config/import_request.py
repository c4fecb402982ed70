"""The import request: its fields, and the rules of IMS that it must follow.

Rules: IMS API reference, "Creating an Image", "Importing an Image File Quickly", "Creating a
Data Disk Image from an External Image File" and "Image Tag Format".
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
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
    model_validator,
)

from ims_config.names import IMPORT_ID_TAG
from ims_config.validation import FieldError, InvalidInput, field_errors, shown
from ims_config.webhooks import LONGEST_URL as LONGEST_WEBHOOK_URL
from ims_config.webhooks import URL_PATTERN as WEBHOOK_URL_PATTERN
from ims_config.webhooks import check_url as check_webhook_url

# IMS accepts ten tags per image; one of them is IMPORT_ID_TAG.
MAX_TAGS: Final = 9
MAX_DATA_IMAGES: Final = 3
# The API accepts 1 GB but the OTC console requires 40, so smaller disks cause a warning.
USUAL_MIN_DISK_GIB: Final = 40


_NAME = re.compile(r"[\w\-. ]{1,128}")
_TAG_KEY = re.compile(r"[A-Za-z0-9_\-]{1,36}")
_TAG_VALUE = re.compile(r"[A-Za-z0-9_\-]{0,43}")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.\-]{1,61}[a-z0-9]")
_KEY_BYTES: Final = 1024
# Databases reject NUL, UTF-8 rejects lone surrogates, and no name or version needs the others.
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_CLOUD = re.compile(r"[\w\-.]{1,64}")


class Kind(StrEnum):
    """The variant of the import call."""

    SYSTEM = "system"
    DATA = "data"
    QUICK = "quick"
    ISO = "iso"


class Priority(StrEnum):
    """Order among imports that wait for a slot in a project."""

    LOW = "low"
    NORMAL = "normal"
    HIGH = "high"

    @property
    def rank(self) -> int:
        """A higher rank starts earlier."""
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
        raise ValueError("must not contain line breaks or other control characters")
    return value


def _description(value: str) -> str:
    if re.search(r"[\r\n<>]", value):
        raise ValueError("must not contain line breaks, '<' or '>'")
    return _printable(value)


def _image_url(value: str) -> str:
    # Split at the first colon: only object keys can contain colons.
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
        raise ValueError("must not contain spaces (IMS rejects them with IMG.0175)")
    if len(_printable(key).encode()) > _KEY_BYTES:
        raise ValueError("must have a key of at most 1024 bytes")
    return value


def _tag_pairs(value: object) -> Iterable[tuple[str, str]]:
    match value:
        case Mapping():
            return [(str(key), _tag_text(text)) for key, text in value.items()]
        case None:
            return []
        case list() | tuple():
            return [_tag_pair(str(tag)) for tag in value]
        case _:
            raise ValueError("must be a list of KEY=VALUE or an object")


def _tag_pair(tag: str) -> tuple[str, str]:
    key, equals, text = tag.partition("=")
    if not equals:
        raise ValueError(f"must be KEY=VALUE, e.g. team=platform; {tag!r} has no '='")
    return key, text


def _tag_text(value: object) -> str:
    # YAML parses a value like 42 as a number.
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError(f"values must be text, not {value!r}")  # noqa: TRY004  # as pydantic needs
    return str(value)


def _tags(value: object) -> dict[str, str]:
    tags: dict[str, str] = {}
    for raw_key, raw_text in _tag_pairs(value):
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


def _project_id(value: str) -> str:
    if value in ("", "0"):
        return value
    try:
        UUID(value)
    except ValueError as exc:
        raise ValueError("must be 0 (the default project) or a UUID") from exc
    return value


def _cloud(value: str) -> str:
    if not _CLOUD.fullmatch(value):
        raise ValueError("must be the name of an entry of clouds.yaml")
    return value


ImageName = Annotated[str, BeforeValidator(lambda v: _image_name(v) if isinstance(v, str) else v)]
CloudName = Annotated[str, AfterValidator(_cloud)]
Description = Annotated[str, StringConstraints(max_length=1024), AfterValidator(_description)]
Printable = AfterValidator(_printable)
ImageUrl = Annotated[
    str,
    AfterValidator(_image_url),
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
    # Not strict about numbers and booleans, because a CLI or YAML may hold them as text. Unknown
    # fields are errors, because a misspelt field would silently do nothing.
    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=False)


class DataImage(Strict):
    """A data disk that is imported together with a system image."""

    name: ImageName | None = None
    description: Description | None = None
    image_url: ImageUrl
    min_disk: Annotated[int, Field(ge=1, le=2048)]
    is_quick_import: bool | None = None
    tags: Tags = Field(default_factory=dict)


class ImportRequest(Strict):
    """A request for one image from one file in OBS. Sizes: `min_disk` in GB, memory in MB."""

    kind: Kind = Kind.SYSTEM
    name: ImageName
    image_url: ImageUrl
    min_disk: int
    cloud: CloudName | None = Field(None, description="entry of the worker's clouds.yaml")
    priority: Priority = Field(Priority.NORMAL, description="order among waiting imports")
    description: Description | None = None
    os_type: Literal["Linux", "Windows", "Other"] | None = None
    os_version: (
        Annotated[str, StringConstraints(min_length=1, max_length=255), Printable] | None
    ) = None
    is_config: bool | None = None
    is_config_init: bool | None = Field(
        None, description="accepted for old scripts but not sent: the API removed it in 2022"
    )
    is_quick_import: bool | None = None
    cmk_id: Annotated[str, StringConstraints(min_length=1, max_length=128), Printable] | None = None
    tags: Tags = Field(default_factory=dict, description="KEY=VALUE list or an object")
    type: Literal["ECS", "FusionCompute", "BMS", "Ironic", "IsoImage", "DataImage"] | None = None
    enterprise_project_id: Annotated[str, AfterValidator(_project_id)] | None = None
    min_ram: Annotated[int, Field(ge=0)] | None = None
    max_ram: Annotated[int, Field(gt=0)] | None = None
    data_images: tuple[DataImage, ...] = Field((), max_length=MAX_DATA_IMAGES)
    hw_firmware_type: Literal["bios", "uefi"] | None = None
    architecture: Literal["x86", "arm"] | None = None
    webhook_url: WebhookUrl | None = Field(None, description="receiver of webhooks")

    @model_validator(mode="after")
    def check_rules_between_fields(self) -> Self:
        broken = [*self._size_rules(), *self._os_rules(), *self._type_rules(), *self._kind_rules()]
        if broken:
            raise InvalidInput(
                *(FieldError(field, rule, shown(getattr(self, field))) for field, rule in broken)
            )
        return self

    @property
    def _data_disk(self) -> bool:
        return self.kind is Kind.DATA or self.type == "DataImage"

    def _size_rules(self) -> Iterator[tuple[str, str]]:
        """Broken rules, as are those of the next three: field and rule."""
        most = 2048 if self._data_disk else 1024
        if not 1 <= self.min_disk <= most:
            kind = "data disk" if self._data_disk else self.kind
            yield "min_disk", f"must be 1 to {most} GB for a {kind} image"
        if self.max_ram is not None and self.max_ram < (self.min_ram or 0):
            yield "max_ram", "must not be less than min_ram"

    def _os_rules(self) -> Iterator[tuple[str, str]]:
        quick = self.kind is Kind.QUICK or self.is_quick_import
        if self.os_version is None and self.kind is Kind.ISO:
            yield "os_version", "is mandatory for an ISO (IMG.0166)"
        if self.os_version is None and quick and not self._data_disk:
            yield "os_version", "is mandatory for a quick import (IMG.0159)"
        if self._data_disk and self.os_type == "Other":
            yield "os_type", "must be Linux or Windows for a data disk image"
        if self.architecture == "arm" and self.hw_firmware_type == "bios":
            yield "hw_firmware_type", "must be uefi for architecture arm (IMG.0141)"

    def _type_rules(self) -> Iterator[tuple[str, str]]:
        if self.type is None:
            return
        if self.kind is Kind.ISO and self.type != "IsoImage":
            yield "type", "must be IsoImage or absent for kind iso"
        if self.kind is not Kind.ISO and self.type == "IsoImage":
            yield "type", "IsoImage is for kind iso only"
        if self.kind is not Kind.QUICK and self.type == "DataImage":
            yield "type", "DataImage is for kind quick only (kind data needs no type)"
        if self.kind is Kind.DATA:
            yield "type", "is not a parameter of kind data"
        if self.kind is Kind.QUICK and self.type not in ("ECS", "BMS", "DataImage"):
            yield "type", "must be ECS, BMS or DataImage for kind quick"

    def _kind_rules(self) -> Iterator[tuple[str, str]]:
        for field in NOT_FOR.get(self.kind, ()):
            if getattr(self, field) not in (None, ()):
                yield field, f"is not a parameter of kind {self.kind}"

    def warnings(self) -> list[str]:
        """Valid values that the user probably did not intend."""
        warnings = []
        if self.is_config_init is not None:
            warnings.append("is_config_init: not sent; the API removed it in 2022, use is_config")
        if self.min_disk < USUAL_MIN_DISK_GIB:
            warnings.append(
                f"min_disk: the API accepts {self.min_disk} GB, but the console requires "
                f"{USUAL_MIN_DISK_GIB}; IMS may reject it (IMG.0055)"
            )
        return warnings

    def as_message(self) -> dict[str, object]:
        """JSON without defaults, for the queue, the ledger and `--json`."""
        return self.model_dump(mode="json", exclude_defaults=True) | {"kind": str(self.kind)}


# The version of the shape in which requests are stored, and for each older version the function
# that turns its shape into that of the next one. Stored requests outlive the program that wrote
# them, so a change of shape needs a step here.
REQUEST_VERSION: Final = 1
UPGRADES: Final[dict[int, Callable[[dict[str, Any]], dict[str, Any]]]] = {}

# Fields that affect how the import runs, not which image it creates.
ABOUT_THE_IMPORT: Final = frozenset({"priority", "webhook_url"})

# Parameters that only other variants of the call have (API reference, §3.1 and §3.2).
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


class Adoption(Strict):
    """A job that was started elsewhere, to be tracked under this name."""

    name: ImageName
    cloud: CloudName | None = None


def parse_adoption(name: str, cloud: str | None) -> Adoption:
    """Raises InvalidRequest for an invalid name or cloud."""
    try:
        return Adoption(name=name, cloud=cloud)
    except ValidationError as exc:
        raise InvalidRequest(*field_errors(exc)) from None


def upgrade_request(stored: dict[str, Any], version: int) -> dict[str, Any]:
    """A stored request of this version in the shape of REQUEST_VERSION.

    The request of a newer program is returned unchanged: only that program knows its rules.
    """
    for step in range(version, REQUEST_VERSION):
        stored = UPGRADES[step](stored)
    return stored


def parse_stored_request(stored: Mapping[str, object] | None, version: int) -> ImportRequest:
    """Check the request of a record, stored in this version. Raises InvalidRequest."""
    if stored is None:
        raise InvalidRequest(FieldError("request", "an adopted import has no request to send"))
    if version > REQUEST_VERSION:
        # It may be valid here and still mean something else.
        rule = f"has version {version}, and this worker reads up to {REQUEST_VERSION}: update it"
        raise InvalidRequest(FieldError("request", rule))
    return parse_request(stored)


def parse_webhook_url(url: str) -> str:
    """Return the URL unchanged. Raises InvalidRequest if it breaks a rule."""
    try:
        return check_webhook_url(url)
    except ValueError as exc:
        raise InvalidRequest(FieldError("url", str(exc), shown(url))) from None
