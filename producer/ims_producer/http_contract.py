"""The contract of the HTTP API and its client: response bodies and problem details."""

from enum import StrEnum
from http import HTTPStatus
from typing import Final, Literal, Self

from pydantic import BaseModel, Field

from ims_config.records import Event, ImportRecord, State
from ims_config.worker_reports import CloudError
from ims_ledger.api_keys import ApiKey
from ims_ledger.errors import Kind
from ims_ledger.outbox import Delivery
from ims_ledger.webhook_endpoints import Webhook
from ims_producer.checks import Check

PROBLEM_MEDIA_TYPE: Final = "application/problem+json"


class ProblemCode(StrEnum):
    """What went wrong; a code keeps its meaning, while the text of `detail` may improve."""

    status: HTTPStatus

    def __new__(cls, value: str, status: HTTPStatus) -> Self:
        code = str.__new__(cls, value)
        code._value_, code.status = value, status
        return code

    INVALID_REQUEST = "invalid_request", HTTPStatus.UNPROCESSABLE_ENTITY
    BODY_TOO_LARGE = "body_too_large", HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    UNAUTHENTICATED = "unauthenticated", HTTPStatus.UNAUTHORIZED
    FORBIDDEN = "forbidden", HTTPStatus.FORBIDDEN
    NOT_FOUND = "not_found", HTTPStatus.NOT_FOUND
    UNKNOWN_OPERATION = "unknown_operation", HTTPStatus.NOT_FOUND
    KEY_CONFLICT = "key_conflict", HTTPStatus.CONFLICT
    INVALID_STATE = "invalid_state", HTTPStatus.CONFLICT
    CONCURRENT_CHANGE = "concurrent_change", HTTPStatus.CONFLICT
    WORKER_REFUSED = "worker_refused", HTTPStatus.FAILED_DEPENDENCY
    RATE_LIMITED = "rate_limited", HTTPStatus.TOO_MANY_REQUESTS
    LEDGER_UNAVAILABLE = "ledger_unavailable", HTTPStatus.SERVICE_UNAVAILABLE
    LEDGER_NOT_CURRENT = "ledger_not_current", HTTPStatus.SERVICE_UNAVAILABLE
    WORKER_UNAVAILABLE = "worker_unavailable", HTTPStatus.SERVICE_UNAVAILABLE
    SMN_UNAVAILABLE = "smn_unavailable", HTTPStatus.SERVICE_UNAVAILABLE
    INTERNAL_ERROR = "internal_error", HTTPStatus.INTERNAL_SERVER_ERROR


class FieldError(BaseModel):
    """One field of the request that breaks a rule."""

    field: str = Field(examples=["min_disk"])
    detail: str = Field(examples=["must be 1 to 1024 GB for a system image; got 0"])

    def __str__(self) -> str:
        return f"{self.field}: {self.detail}"


class Resource(BaseModel):
    """Something that does not exist, or that this key must not see."""

    kind: Kind
    id: str


class Problem(BaseModel):
    """Why a request was not carried out (RFC 9457)."""

    type: str = Field("about:blank", description="`about:blank`: the status names the type.")
    title: str = Field(description="The phrase of the status.", examples=["Unprocessable Content"])
    status: int = Field(description="The HTTP status.", examples=[422])
    code: ProblemCode
    detail: str = Field(description="What is wrong, for people.")
    hint: str | None = Field(None, description="What to do about it.")
    errors: list[FieldError] = Field(
        default_factory=list, description="One entry for each field that breaks a rule."
    )
    import_id: str | None = Field(None, description="The import that prevents the operation.")
    state: State | None = Field(None, description="invalid_state: the state of that import.")
    rule: str | None = Field(
        None, description="invalid_state: the rule that forbids the operation."
    )
    record: ImportRecord | None = Field(None, description="invalid_state: that import as it is.")
    missing: Resource | None = Field(None, description="not_found: what does not exist.")
    cloud_error: CloudError | None = Field(
        None, description="worker_refused: the error of the cloud."
    )


class Page(BaseModel):
    """Imports, newest first."""

    items: list[ImportRecord]
    next: str | None = Field(description="The `cursor` of the next page; null on the last one.")


class Events(BaseModel):
    """The history of an import, in order."""

    items: list[Event]


class FoundImports(BaseModel):
    """Imports, in no order."""

    items: list[ImportRecord]


class Pruned(BaseModel):
    """How many imports were deleted from the ledger."""

    imports: int


class CreatedKey(BaseModel):
    """`key` cannot be shown again."""

    id: str
    key: str


class Keys(BaseModel):
    items: list[ApiKey]


class WebhookList(BaseModel):
    items: list[Webhook]


class Endpoint(BaseModel):
    """What a secret belongs to: an address without its query."""

    endpoint: str


class DeliveryList(BaseModel):
    """Newest first."""

    items: list[Delivery]


class Checks(BaseModel):
    items: list[Check]


class Readiness(BaseModel):
    """Without the ledger no request is recorded, nor if the workers use another one (not_current);
    without Redis requests are recorded and run later."""

    ledger: Literal["ok", "unreachable", "outdated", "not_current"]
    queue: Literal["ok", "unreachable"]
