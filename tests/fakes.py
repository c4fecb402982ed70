"""An image service that behaves: for tests of whoever uses one. `tests/contract` runs the same
suite over it and over the real client, so it promises nothing the client does not keep."""

import itertools
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from ims_config.import_request import ImportRequest
from ims_config.names import IMPORT_ID_TAG
from ims_config.records import ErrorClass, Failure, ImageFacts
from ims_worker.errors import (
    CloudProblem,
    JobNotFound,
    OutcomeUnknown,
    Refused,
    Throttled,
    ThrottleScope,
)
from ims_worker.ports import CloudJob, ImageId, ImageService, JobId, JobStatus, ProjectId, Quota


def a_failure(
    code: str = "IMG.0057",
    message: str = "The image file is empty or in incorrect format.",
    error_class: ErrorClass = ErrorClass.PERMANENT,
) -> Failure:
    return Failure(code=code, message=message, error_class=error_class, hint="Look at the file.")


def busy() -> Throttled:
    failure = a_failure("IMG.0060", "too many tasks", ErrorClass.RETRY)
    tried = "POST /v2/cloudimages/action (HTTP 400)"
    return Throttled(failure, scope=ThrottleScope.CREATES, tried=tried)


def lost() -> OutcomeUnknown:
    failure = a_failure("HTTP.504", "Wait response timeout.", ErrorClass.LOOK_FIRST)
    return OutcomeUnknown(failure, tried="POST /v2/cloudimages/action (HTTP 504)")


def refused(code: str = "IMG.0024", error_class: ErrorClass = ErrorClass.PERMANENT) -> Refused:
    failure = a_failure(code, "refused", error_class)
    return Refused(failure, tried="POST /v2/cloudimages/action (HTTP 400)")


@dataclass(frozen=True, slots=True)
class _Job:
    image_id: ImageId
    looks_left: int
    failure: Failure | None = None


class FakeImageService:
    """Jobs run for `looks` looks (INIT, RUNNING …) and then end. Images are there at once."""

    def __init__(
        self,
        *,
        project: str = "p-1",
        looks: int = 2,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.looks = looks
        self.images: dict[ImageId, ImageFacts] = {}
        self.creates = 0
        self.quota_limit = 100
        self.percents = False
        self._project = ProjectId(project)
        self._now = now
        self._jobs: dict[JobId, _Job] = {}
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._next_create: CloudProblem | None = None
        self._next_read: CloudProblem | None = None
        self._next_job: Failure | None = None
        self._hidden = False

    # --- what a test says about the future ------------------------------------------------

    def refuse_next_create(self, problem: CloudProblem) -> None:
        """The next create raises this and makes nothing."""
        self._next_create = problem

    def lose_next_answer(self, *, made: bool = True) -> None:
        """The next create raises OutcomeUnknown; its image is made, or not."""
        self._next_create = lost()
        self._hidden = made

    def fail_next_job(self, failure: Failure | None = None) -> None:
        """The next job ends as FAIL and leaves no image."""
        self._next_job = failure or a_failure()

    def fail_next_read(self, problem: CloudProblem) -> None:
        """The next read of any kind raises this."""
        self._next_read = problem

    def forget_jobs(self) -> None:
        """IMS no longer knows any job."""
        self._jobs.clear()

    # --- what an import needs -------------------------------------------------------------

    def project(self) -> ProjectId:
        return self._project

    def create_image(self, request: ImportRequest, *, import_id: str) -> JobId:
        with self._lock:
            self.creates += 1
            problem, self._next_create = self._next_create, None
            made, self._hidden = problem is None or self._hidden, False
            job_id = self._made(request, import_id) if made else None
        if problem is not None or job_id is None:
            raise problem or lost()
        return job_id

    def read_job(self, job_id: JobId) -> CloudJob:
        with self._lock:
            self._may_fail()
            job = self._jobs.get(job_id)
            if job is None:
                failure = a_failure("IMG.0023", "no such job", ErrorClass.RETRY)
                raise JobNotFound(failure, tried=f"GET /v1/p-1/jobs/{job_id} (HTTP 400)")
            self._jobs[job_id] = replace(job, looks_left=job.looks_left - 1)
            return self._reading(job_id, job)

    def read_image(self, image_id: ImageId) -> ImageFacts | None:
        self._may_fail()
        return self.images.get(image_id)

    def images_tagged(self, import_id: str) -> Sequence[ImageFacts]:
        self._may_fail()
        tag = f"{IMPORT_ID_TAG}={import_id}"
        return [image for image in self.images.values() if tag in image.tags]

    def images_named(self, name: str, *, since: datetime) -> Sequence[ImageFacts]:
        self._may_fail()
        moment = _stamp(since)
        return [
            image
            for image in self.images.values()
            if image.name == name and (image.created_at or "") >= moment
        ]

    def private_images(self) -> Sequence[ImageFacts]:
        self._may_fail()
        return list(self.images.values())

    def delete_image(self, image_id: ImageId) -> None:
        self._may_fail()
        self.images.pop(image_id, None)

    def quota(self) -> Quota:
        self._may_fail()
        return Quota(used=len(self.images), limit=self.quota_limit)

    # --- inside ---------------------------------------------------------------------------

    def _may_fail(self) -> None:
        problem, self._next_read = self._next_read, None
        if problem is not None:
            raise problem

    def _made(self, request: ImportRequest, import_id: str) -> JobId:
        number = next(self._numbers)
        job_id, image_id = JobId(f"job-{number}"), ImageId(f"img-{number}")
        failure, self._next_job = self._next_job, None
        self._jobs[job_id] = _Job(image_id, self.looks, failure)
        if failure is None:
            self.images[image_id] = ImageFacts(
                id=image_id,
                name=request.name,
                status="queued",
                min_disk=request.min_disk,
                created_at=_stamp(self._now()),
                data_origin=f"file,{request.image_url}",
                tags=tuple(
                    f"{key}={value}"
                    for key, value in {**request.tags, IMPORT_ID_TAG: import_id}.items()
                ),
            )
        return job_id

    def _reading(self, job_id: JobId, job: _Job) -> CloudJob:
        if job.looks_left > 0:
            status = JobStatus.INIT if job.looks_left == self.looks else JobStatus.RUNNING
            done = 100.0 * (self.looks - job.looks_left) / self.looks
            return CloudJob(id=job_id, status=status, percent=done if self.percents else None)
        if job.failure is not None:
            return CloudJob(id=job_id, status=JobStatus.FAIL, failure=job.failure)
        if job.image_id in self.images:
            image = self.images[job.image_id]
            self.images[job.image_id] = image.model_copy(update={"status": "active"})
        return CloudJob(id=job_id, status=JobStatus.SUCCESS, image_ids=(job.image_id,))


class FakeCooldowns:
    """Pauses that pass with the clock of the test."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now = now
        self._until: dict[tuple[str, bool], datetime] = {}

    def rest(self, project: str, *, create: bool) -> timedelta:
        kinds = (False, True) if create else (False,)
        ends = [self._until.get((project, kind), self._now()) for kind in kinds]
        return max(timedelta(0), *(end - self._now() for end in ends))

    def begin(self, project: str, pause: timedelta, *, only_creates: bool) -> None:
        key = (project, only_creates)
        self._until[key] = max(self._until.get(key, self._now()), self._now() + pause)


class FakeClouds:
    """One fake service, or one per name; an unknown name is refused as in clouds.yaml."""

    def __init__(self, service: ImageService, **named: ImageService) -> None:
        self._default = service
        self._named = named

    def service(self, cloud: str | None) -> ImageService:
        if cloud is None:
            return self._default
        if cloud not in self._named:
            raise refused("CLOUD.unknown")
        return self._named[cloud]


def _stamp(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
