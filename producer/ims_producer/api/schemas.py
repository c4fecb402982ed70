"""What goes over the wire beside records: bodies, pages, examples."""

import base64
import binascii
import re
from http import HTTPStatus
from typing import Annotated, Any, Final, Literal

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.json_schema import SkipJsonSchema

from ims_config.import_request import ImportRequest
from ims_config.records import Event, ImportRecord, State
from ims_producer.api.problems import FieldError, Problem, Refusal

MOST_IN_A_BATCH: Final = 1000
MOST_IN_A_PAGE: Final = 200
EXAMPLE: Final[dict[str, Any]] = {
    "name": "ubuntu-24.04",
    "image_url": "my-bucket:images/ubuntu-24.04.qcow2",
    "min_disk": 40,
    "os_version": "Ubuntu 24.04 server 64bit",
    "tags": {"team": "platform"},
}


def _rfc3339(value: Any) -> Any:
    # Pydantic would take a number of seconds as well.
    if not isinstance(value, str) or not re.match(r"\d{4}-\d\d-\d\dT", value):
        raise ValueError("must be a time as in RFC 3339, e.g. 2026-11-23T12:00:00Z")
    return value


# JSON's own true and false, not 0, "no" or "off".
Flag = Annotated[bool, Field(strict=True)]
NameText = Annotated[str, Field(max_length=128, pattern=r"^[^\x00-\x1f\x7f]*$")]
CloudText = Annotated[str, Field(max_length=64, pattern=r"^[A-Za-z0-9_\-.]+$")]
TagText = Annotated[str, Field(pattern=r"^[A-Za-z0-9_\-]{1,36}=[A-Za-z0-9_\-]{0,43}$")]
CursorText = Annotated[str, Field(pattern=r"^[A-Za-z0-9_\-]{1,100}$")]
EventNumber = Annotated[str, Field(pattern=r"^[0-9]{1,18}$")]
Moment = Annotated[AwareDatetime, BeforeValidator(_rfc3339)]
# May be left out, but `null` is no value that a header or an address has.
Absent = SkipJsonSchema[None]


# What a client may choose to find its import again: printable, as headers are.
KeyText = Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[\x21-\x7e]+$")]


class Filters(BaseModel):
    """Which imports; a misspelt filter is refused, for it would find everything."""

    model_config = ConfigDict(extra="forbid")

    state: list[State] = Field(default_factory=list, description="In one of these states.")
    name: NameText | Absent = None
    cloud: CloudText | Absent = None
    tag: TagText | Absent = Field(None, examples=["team=platform"])
    created_after: Moment | Absent = Field(None, description="From then on.")
    created_before: Moment | Absent = Field(None, description="Before then.")
    limit: int = Field(50, ge=1, le=MOST_IN_A_PAGE)
    cursor: CursorText | Absent = Field(None, description="The `next` of the page before.")


class EventsQuery(BaseModel):
    """From where on."""

    model_config = ConfigDict(extra="forbid")

    after: int = Field(0, ge=0, lt=2**63, description="Events behind this number.")


class Page(BaseModel):
    """Imports, newest first."""

    items: list[ImportRecord]
    next: str | None = Field(description="The `cursor` of the next page; null on the last one.")


class Events(BaseModel):
    """What happened to an import, in order."""

    items: list[Event]


class BatchItem(BaseModel):
    """One request of a batch, with a key of its own."""

    model_config = ConfigDict(extra="forbid")

    key: KeyText | None = Field(None, description="As the header Idempotency-Key.")
    request: dict[str, Any] = Field(description="As the body of POST /v1/imports.")


class Batch(BaseModel):
    """Up to 1,000 requests; each is recorded or refused by itself."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"items": [{"key": "build-1", "request": EXAMPLE}]}]},
    )

    items: list[BatchItem] = Field(min_length=1, max_length=MOST_IN_A_BATCH)


class BatchAnswer(BaseModel):
    """What came of one request: its import, or a problem."""

    index: int
    status: Literal[200, 202, 403, 409, 422] = Field(
        description="202: recorded. 200: this key had it already. Else `problem` tells."
    )
    id: str | None = None
    problem: Problem | None = None


class BatchAnswers(BaseModel):
    """One for each item, in the same order."""

    items: list[BatchAnswer]


class Cancel(BaseModel):
    """What to do with an image that is made all the same."""

    model_config = ConfigDict(extra="forbid")

    leave_image: Flag = Field(
        default=False, description="Keep the image; else it is deleted when the job is done."
    )


class ResolveWithImage(BaseModel):
    """This is its image."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"how": "image", "image_id": "1b2c3d4e-6f2c-4c27-8a52-0d4f2f4b7c1d"}]
        },
    )

    how: Literal["image"]
    image_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9_\-]{1,64}$")]


class ResolveWithoutImage(BaseModel):
    """`resubmit`: there is no image, ask IMS again. `fail`: give it up."""

    model_config = ConfigDict(extra="forbid")

    how: Literal["resubmit", "fail"]


Resolve = Annotated[ResolveWithImage | ResolveWithoutImage, Field(discriminator="how")]


def request_schema() -> dict[str, Any]:
    """The JSON Schema of a request, as far as one field is concerned."""
    schema: dict[str, Any] = ImportRequest.model_json_schema(
        ref_template="#/components/schemas/{model}"
    )
    return schema


def cursor_of(record: ImportRecord) -> str:
    return base64.urlsafe_b64encode(record.id.encode()).decode().rstrip("=")


def id_of(cursor: str) -> str:
    """The id in a cursor. Raises Refusal where there is none."""
    try:
        return base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
    except (binascii.Error, ValueError) as exc:
        raise bad_cursor() from exc


def bad_cursor() -> Refusal:
    return Refusal(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        "the request breaks rules of the API",
        errors=[FieldError(field="cursor", detail="must be the `next` of a page before")],
    )
