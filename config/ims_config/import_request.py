"""The import request: its fields, and the rules of IMS that it must follow.

Rules: IMS API reference, "Creating an Image", "Importing an Image File Quickly", "Creating a
Data Disk Image from an External Image File" and "Image Tag Format".
"""

import json
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping
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

from ims_config.image_tags import Tags, tag_pairs
from ims_config.spellings import describe_spellings, present, rename_fields
from ims_config.validation import FieldError, InvalidInput, field_errors, shown
from ims_config.webhooks import LONGEST_URL as LONGEST_WEBHOOK_URL
from ims_config.webhooks import URL_PATTERN as WEBHOOK_URL_PATTERN
from ims_config.webhooks import check_url as check_webhook_url

MAX_DATA_IMAGES: Final = 3
# The API accepts 1 GB but the OTC console requires 40, so smaller disks cause a warning.
USUAL_MIN_DISK_GIB: Final = 40


_NAME = re.compile(r"[\w\-. ]{1,128}")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.\-]{1,61}[a-z0-9]")
_KEY_BYTES: Final = 1024
# Databases reject NUL, UTF-8 rejects lone surrogates, and no name or version needs the others.
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_LONGEST_CLOUD: Final = 64


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


def composed(text: str) -> str:
    """The text with composed characters (NFC): macOS, for example, types an umlaut as two."""
    return unicodedata.normalize("NFC", text)


def _image_name(value: str) -> str:
    value = composed(value)
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


def _project_id(value: str) -> str:
    if value in ("", "0"):
        return value
    try:
        UUID(value)
    except ValueError as exc:
        raise ValueError("must be 0 (the default project) or a UUID") from exc
    return value


def _cloud(value: str) -> str:
    # Any key of YAML can be the name of an entry; the ledger stores this many characters.
    if not value.isprintable() or not 1 <= len(value) <= _LONGEST_CLOUD:
        raise ValueError(
            "must be the name of an entry of clouds.yaml: "
            f"1 to {_LONGEST_CLOUD} printable characters"
        )
    return value


ImageName = Annotated[str, BeforeValidator(lambda v: _image_name(v) if isinstance(v, str) else v)]
CloudName = Annotated[
    str,
    AfterValidator(_cloud),
    Field(json_schema_extra={"minLength": 1, "maxLength": _LONGEST_CLOUD}),
]
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


class Strict(BaseModel):
    # Not strict about numbers and booleans, because a CLI or YAML may hold them as text. Unknown
    # fields are errors, because a misspelt field would silently do nothing.
    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=False)


class DataImage(Strict):
    """A data disk that is imported together with a system image."""

    model_config = ConfigDict(json_schema_extra=describe_spellings)

    name: ImageName | None = None
    description: Description | None = None
    image_url: ImageUrl
    min_disk: Annotated[int, Field(ge=1, le=2048)]
    is_quick_import: bool | None = None
    tags: Tags = Field(default_factory=dict)


class ImportRequest(Strict):
    """A request for one image from one file in OBS. Sizes: `min_disk` in GB, memory in MB."""

    model_config = ConfigDict(json_schema_extra=describe_spellings)

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
    tags: Tags = Field(
        default_factory=dict,
        description="list of KEY=VALUE, KEY.VALUE or objects with key and value, or one object",
    )
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
    fields = _fields(raw)
    try:
        if strict:
            # Strict in the sense of JSON, where an enum is a string and a tuple a list.
            return ImportRequest.model_validate_json(json.dumps(fields), strict=True)
        return ImportRequest.model_validate(fields)
    except ValidationError as exc:
        raise InvalidRequest(*field_errors(exc)) from None


def _fields(raw: Mapping[str, object]) -> dict[str, object]:
    """The fields as ImportRequest names them, without those that are null."""
    fields = present(usual_names(raw), ImportRequest.model_fields)
    disks = fields.get("data_images")
    if isinstance(disks, list | tuple):
        fields["data_images"] = [_disk_fields(disk) for disk in disks]
    return fields


def _disk_fields(raw: object) -> object:
    if not isinstance(raw, Mapping):
        return raw
    return present(usual_names(raw), DataImage.model_fields)


def usual_names(raw: Mapping[str, object]) -> dict[str, object]:
    """The same fields under the names of ImportRequest. Raises InvalidRequest."""
    try:
        return rename_fields(raw)
    except InvalidInput as exc:
        raise InvalidRequest(*exc.errors) from None


def merge_requests(
    defaults: Mapping[str, object], fields: Mapping[str, object]
) -> dict[str, object]:
    """Fields with defaults for those that are missing; tags of both are merged.

    Raises InvalidRequest if tags that must be merged are invalid.
    """
    first, second = usual_names(defaults), usual_names(fields)
    merged = first | second
    if first.get("tags") is not None and second.get("tags") is not None:
        try:
            merged["tags"] = dict(tag_pairs(first["tags"])) | dict(tag_pairs(second["tags"]))
        except ValueError as exc:
            raise InvalidRequest(FieldError("tags", str(exc))) from None
    return merged


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
