"""The record of an import, identical in `--json`, HTTP and Celery results."""

from datetime import datetime
from enum import StrEnum
from typing import Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field


class State(StrEnum):
    """The states of an import: see `docs/states.md`."""

    QUEUED = "QUEUED"
    WAITING = "WAITING"
    SUBMITTING = "SUBMITTING"
    UNCERTAIN = "UNCERTAIN"
    RUNNING = "RUNNING"
    VERIFYING = "VERIFYING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELED = "CANCELED"

    @property
    def terminal(self) -> bool:
        return self in TERMINAL


TERMINAL = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELED})


class WaitsFor(StrEnum):
    """What a WAITING import waits for."""

    SLOT = "slot"
    """A free slot in its project: it has a place in line."""
    CLOUD = "cloud"
    """The cloud: it was busy, unreachable, or throttles requests."""
    PERSON = "person"
    """A person who raises a limit or grants a permission."""
    CREDENTIALS = "credentials"
    """A person who corrects the credentials."""


class ErrorClass(StrEnum):
    """How to react to an error; every error code of the cloud has a class."""

    PERMANENT = "permanent"
    RETRY = "retry"
    AUTH = "auth"
    BLOCKED = "hold"
    LOOK_FIRST = "look-first"


class Scope(StrEnum):
    """What an API key permits."""

    READ = "read"
    """Read imports, their events, and metrics."""
    SUBMIT = "submit"
    """Submit, cancel and retry imports."""
    ADMIN = "admin"
    """All of these, and resolve UNCERTAIN imports."""


class Origin(StrEnum):
    """How ims-import came to know an import."""

    REQUEST = "request"
    """From a request, which the record holds."""
    ADOPTED = "adopted"
    """From a job that was started elsewhere: kind, file and request are unknown."""


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class CodedError(Frozen):
    """An error of the cloud: its code and message, and what to do about it."""

    model_config = ConfigDict(frozen=True, populate_by_name=True, serialize_by_alias=True)

    code: str
    message: str
    error_class: ErrorClass = Field(alias="class")
    hint: str


class Failure(CodedError):
    """Why an import failed or waits: code and message of the cloud, and a hint."""

    http_status: int | None = None
    request_id: str | None = None

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


class PollError(CodedError):
    """Why the last poll of an import failed. The import itself continues in the cloud."""

    since: AwareDatetime
    """The time of the first of the failed polls in a row."""
    count: int | None = None
    """Failed polls in a row; None if Redis, which counts them, cannot tell."""

    def __str__(self) -> str:
        """Constant while polls fail for the same reason."""
        return f"polls fail since {self.since:%Y-%m-%d %H:%M:%S} UTC: {self.code}: {self.message}"


class Progress(Frozen):
    """Progress of a job. `percent` is 0 to 100, and None unless the cloud reports it."""

    percent: float | None = None
    source: Literal["ims"] | None = None
    eta_s: float | None = None


class ImportRecord(Frozen):
    """One import as the ledger stores it. Times are RFC 3339, UTC.

    `kind`, `image_url` and `request` are None only for an adopted import.
    """

    id: str
    origin: Origin = Origin.REQUEST
    key: str | None = None
    state: State
    reason: str | None = None
    waits_for: WaitsFor | None = None
    cancel: Literal["delete", "leave"] | None = None
    """What happens to the image of an import that a person canceled; takes effect when the job
    has ended."""
    overdue: bool = False
    cloud: str | None = None
    project: str | None = None
    kind: str | None = None
    name: str
    image_url: str | None = None
    job_id: str | None = None
    image_id: str | None = None
    progress: Progress = Progress()
    error: Failure | None = None
    poll_error: PollError | None = None
    """None if the last poll succeeded. While it is set, `progress` is unknown."""
    last_poll_at: AwareDatetime | None = None
    """When the cloud was asked last; None if not yet, or if Redis cannot tell."""
    next_poll_at: AwareDatetime | None = None
    """When the next step is due; None after the end, or if Redis cannot tell."""
    attempts: int = 0
    polls: int = 0
    created_at: AwareDatetime
    submitted_at: AwareDatetime | None = None
    finished_at: AwareDatetime | None = None
    requested_by: str | None = None
    request: dict[str, Any] | None = None
    # The version in which the ledger stores the request.
    request_version: int = Field(1, exclude=True)
    # Incremented by each transition, for the ledger's compare-and-set.
    version: int = Field(0, exclude=True)
    updated_at: datetime | None = Field(None, exclude=True)
    attempted_at: datetime | None = Field(None, exclude=True)
    priority: int = Field(0, exclude=True)

    @property
    def canceling(self) -> bool:
        """Whether it was canceled, and its job has not ended yet."""
        return self.cancel is not None and not self.state.terminal

    @property
    def settled(self) -> bool:
        """Whether nothing will change until a person acts: it ended, or it waits for a person."""
        return self.state.terminal or self.credentials_refused or self.needs_a_person

    @property
    def needs_a_person(self) -> bool:
        """Whether it is UNCERTAIN until a person resolves it."""
        return self.state is State.UNCERTAIN and self.waits_for is WaitsFor.PERSON

    @property
    def credentials_refused(self) -> bool:
        """Whether it waits until a person corrects the credentials."""
        return (
            self.state is State.WAITING
            and self.error is not None
            and self.error.error_class is ErrorClass.AUTH
        )


class ImageFacts(Frozen):
    """The image as IMS reports it after the import."""

    id: str
    name: str | None = None
    status: str | None = None
    min_disk: int | None = None
    os_type: str | None = None
    os_version: str | None = None
    disk_format: str | None = None
    size_bytes: int | None = None
    created_at: str | None = None
    data_origin: str | None = None
    tags: tuple[str, ...] = ()


class ImportResult(ImportRecord):
    """The final record with the image; `AsyncResult.get()` returns it."""

    image: ImageFacts | None = None


class Event(Frozen):
    """One entry in the history of an import; every transition appends one."""

    id: int
    import_id: str
    at: AwareDatetime
    kind: str
    """`transition`, or an event without one, such as `overdue` or `cancel`."""
    from_state: State | None = None
    to_state: State | None = None
    reason: str | None = None
    facts: dict[str, Any] = Field(default_factory=dict)
