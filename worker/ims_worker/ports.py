"""What the story of an import needs from the world, in the story's own words."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import NewType, Protocol, Unpack

from ims_config.import_request import ImportRequest
from ims_config.records import Failure, ImageFacts, ImportResult, Progress, State
from ims_ledger.changes import Changes

JobId = NewType("JobId", str)
ImageId = NewType("ImageId", str)
ProjectId = NewType("ProjectId", str)


class JobStatus(StrEnum):
    """The four documented words, and one for any other the cloud may say."""

    INIT = "INIT"
    RUNNING = "RUNNING"
    SUCCESS = "SUCCESS"
    FAIL = "FAIL"
    UNKNOWN = "UNKNOWN"


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudJob:
    """One reading of an IMS job."""

    id: JobId
    status: JobStatus
    image_ids: tuple[ImageId, ...] = ()
    """May be known before SUCCESS; several only for jobs with sub-jobs, the system image first."""
    percent: float | None = None
    """0 to 100, only where IMS gives `process_percent`."""
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
        """Ask for the image, once. Raises NotSent, Unavailable (surely not taken), OutcomeUnknown,
        Refused or LoginRefused."""
        ...

    def read_job(self, job_id: JobId) -> CloudJob: ...

    def read_image(self, image_id: ImageId) -> ImageFacts | None:
        """The image, or None where the cloud says there is none."""
        ...

    def images_tagged(self, import_id: str) -> Sequence[ImageFacts]: ...

    def images_named(self, name: str, *, since: datetime) -> Sequence[ImageFacts]: ...

    def private_images(self) -> Sequence[ImageFacts]:
        """All private images of the project."""
        ...

    def delete_image(self, image_id: ImageId) -> None:
        """Delete an image; one that is gone already is deleted."""
        ...

    def quota(self) -> Quota: ...


class Clouds(Protocol):
    """The clouds this worker has credentials for."""

    def service(self, cloud: str | None) -> ImageService:
        """IMS of an entry of clouds.yaml; None is the worker's default. Raises Refused when
        there is no such entry."""
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
    """Pauses that the cloud asked for, known to every worker. They never raise."""

    def rest(self, project: str, *, create: bool) -> timedelta:
        """How long no call, or with `create` no create, should be made in this project."""
        ...

    def begin(self, project: str, pause: timedelta, *, only_creates: bool) -> None:
        """Start a pause, or lengthen the one that runs."""
        ...
