"""Request bodies, query parameters and batch results of the API."""

import re
from typing import Annotated, Any, Final, Literal

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, JsonValue
from pydantic.json_schema import SkipJsonSchema

from ims_config.import_request import CloudName
from ims_config.records import State
from ims_producer.http_contract import Problem

MAX_BATCH: Final = 1000
MAX_PAGE: Final = 200
EXAMPLE: Final[dict[str, JsonValue]] = {
    "name": "ubuntu-24.04",
    "image_url": "my-bucket:images/ubuntu-24.04.qcow2",
    "min_disk": 40,
    "os_version": "Ubuntu 24.04 server 64bit",
    "tags": {"team": "platform"},
}


def _rfc3339(value: object) -> object:
    # Pydantic would also accept a number of seconds.
    if not isinstance(value, str) or not re.match(r"\d{4}-\d\d-\d\dT", value):
        raise ValueError("must be a time as in RFC 3339, e.g. 2026-11-23T12:00:00Z")
    return value


# Only true and false of JSON, not 0, "no" or "off".
Flag = Annotated[bool, Field(strict=True)]
NameText = Annotated[str, Field(max_length=128, pattern=r"^[^\x00-\x1f\x7f]*$")]
IdText = Annotated[str, Field(pattern=r"^[A-Za-z0-9_\-]{1,64}$")]
TagText = Annotated[str, Field(pattern=r"^[A-Za-z0-9_\-]{1,36}=[A-Za-z0-9_\-]{0,43}$")]
CursorText = Annotated[str, Field(pattern=r"^[A-Za-z0-9_\-]{1,100}$")]
EventNumber = Annotated[str, Field(pattern=r"^[0-9]{1,18}$")]
Moment = Annotated[AwareDatetime, BeforeValidator(_rfc3339)]
# An optional header or query parameter: it may be missing, but cannot be null.
Absent = SkipJsonSchema[None]
# Printable, as headers are.
KeyText = Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[\x21-\x7e]+$")]


class Body(BaseModel):
    """A request body or query; unknown fields are rejected, as they are misspelt ones."""

    model_config = ConfigDict(extra="forbid")


class Filters(Body):
    """Which imports."""

    state: list[State] = Field(default_factory=list, description="In one of these states.")
    name: NameText | Absent = None
    cloud: CloudName | Absent = None
    tag: TagText | Absent = Field(None, examples=["team=platform"])
    created_after: Moment | Absent = Field(None, description="Inclusive.")
    created_before: Moment | Absent = Field(None, description="Exclusive.")
    limit: int = Field(50, ge=1, le=MAX_PAGE)
    cursor: CursorText | Absent = Field(None, description="The `next` of the previous page.")


class EventsQuery(Body):
    """Which events."""

    after: int = Field(0, ge=0, lt=2**63, description="Events behind this number.")


class BatchItem(Body):
    """One request of a batch, with its own key."""

    key: KeyText | None = Field(None, description="As the header Idempotency-Key.")
    request: dict[str, Any] = Field(description="As the body of POST /v1/imports.")


class Batch(Body):
    """Up to 1,000 requests; each is recorded or rejected independently."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"items": [{"key": "build-1", "request": EXAMPLE}]}]},
    )

    items: list[BatchItem] = Field(min_length=1, max_length=MAX_BATCH)


class BatchResult(BaseModel):
    """The import of one request, or a problem."""

    index: int
    status: Literal[200, 202, 403, 409, 422] = Field(
        description="202: recorded. 200: the import of this key exists. Otherwise see `problem`."
    )
    id: str | None = None
    problem: Problem | None = None


class BatchResults(BaseModel):
    """One result for each item, in the same order."""

    items: list[BatchResult]


class Cancel(Body):
    """What happens to an image that the job still creates."""

    leave_image: Flag = Field(
        default=False, description="Keep the image; otherwise it is deleted when the job ends."
    )


class ResolveWithImage(Body):
    """`image`: this is the image of the import."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"how": "image", "image_id": "1b2c3d4e-6f2c-4c27-8a52-0d4f2f4b7c1d"}]
        },
    )

    how: Literal["image"]
    image_id: IdText


class ResolveWithoutImage(Body):
    """`resubmit`: there is no image, send the request again. `fail`: give up."""

    how: Literal["resubmit", "fail"]


Resolve = Annotated[ResolveWithImage | ResolveWithoutImage, Field(discriminator="how")]
