"""Interfaces that the importer uses: cloud, ledger and cool-downs."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import NewType, Protocol, Unpack

from ims_config.import_request import ImportRequest
from ims_config.records import Failure, ImageFacts, ImportResult, PollError, Progress, State
from ims_ledger.changes import Changes

JobId = NewType("JobId", str)
ImageId = NewType("ImageId", str)
ProjectId = NewType("ProjectId", str)


class JobStatus(StrEnum):
    """The four documented statuses; UNKNOWN stands for any other."""

    INIT = "INIT"
    RUNNING = "RUNNING"
    SUCCESS = "SUCCESS"
    FAIL = "FAIL"
    UNKNOWN = "UNKNOWN"


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudJob:
    """An IMS job at one poll."""

    id: JobId
    status: JobStatus
    image_ids: tuple[ImageId, ...] = ()
    """May be known before SUCCESS; several only for jobs with sub-jobs, the system image first."""
    percent: float | None = None
    """0 to 100; only if IMS provides `process_percent`."""
    failure: Failure | None = None
    """Set when status is FAIL."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """Private images of a project."""

    used: int
    limit: int


class ImageService(Protocol):
    """The part of IMS an import uses, in one project. Every call may raise CloudProblem."""

    def project(self) -> ProjectId: ...

    def create_image(self, request: ImportRequest, *, import_id: str) -> JobId:
        """Send the create once. Raises NotSent or Unavailable (nothing was created),
        OutcomeUnknown, Refused (NameExists for a name that is taken) or LoginRefused."""
        ...

    def read_job(self, job_id: JobId) -> CloudJob:
        """The job. Raises JobNotFound."""
        ...

    def read_image(self, image_id: ImageId) -> ImageFacts | None:
        """The image, or None if it does not exist."""
        ...

    def images_tagged(self, import_id: str) -> Sequence[ImageFacts]: ...

    def images_named(self, name: str, *, since: datetime | None = None) -> Sequence[ImageFacts]: ...

    def private_images(self) -> Sequence[ImageFacts]:
        """All private images of the project."""
        ...

    def delete_image(self, image_id: ImageId) -> None:
        """Delete an image; a missing image is no error."""
        ...

    def quota(self) -> Quota: ...


class Clouds(Protocol):
    """The clouds this worker has credentials for."""

    def service(self, cloud: str | None) -> ImageService:
        """IMS of an entry of clouds.yaml; None is the worker's default. Raises Refused for an
        unknown entry."""
        ...


class Records(Protocol):
    """Reads imports from the ledger."""

    def get(self, import_id: str) -> ImportResult: ...

    def earlier_images(self, import_id: str) -> Collection[str]: ...


class Transitions(Protocol):
    """Moves imports in the ledger; may raise ims_ledger.errors.ConcurrentTransition."""

    def move(
        self,
        import_id: str,
        *,
        from_state: State | Collection[State],
        to: State,
        version: int | None = None,
        reason: str | None = None,
        **changes: Unpack[Changes],
    ) -> ImportResult: ...

    def add_event(
        self, import_id: str, kind: str, *, reason: str | None = None, **changes: Unpack[Changes]
    ) -> ImportResult: ...

    def report_poll_error(self, import_id: str, error: PollError | None) -> ImportResult:
        """Store why polls fail, or None when they succeed again; nothing unless it changed."""
        ...

    def report_progress(self, import_id: str, progress: Progress) -> None:
        """Notify webhook receivers."""
        ...

    def admit(
        self,
        import_id: str,
        *,
        version: int,
        project: str,
        limit: int,
        why: Callable[[int, int], str],
    ) -> ImportResult:
        """To SUBMITTING if the project has a slot, else to WAITING."""
        ...


class Cooldowns(Protocol):
    """Pauses that the cloud requested, shared by all workers. Methods never raise."""

    def rest(self, project: str, *, create: bool) -> timedelta:
        """How long to make no call, or with `create` no create, in this project."""
        ...

    def begin(self, project: str, pause: timedelta, *, only_creates: bool) -> None:
        """Start a pause, or extend the current one."""
        ...
