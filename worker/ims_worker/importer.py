"""The story of one import: ask once, look again until it ends, say how it ended.

Every method takes one step and says what comes next; who waits in between is the queue.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final, Literal, Unpack

from ims_config.import_request import parse_request
from ims_config.records import (
    ErrorClass,
    Failure,
    ImageFacts,
    ImportRecord,
    ImportResult,
    Progress,
    State,
    WaitsFor,
)
from ims_config.webhooks import progress_steps
from ims_ledger.changes import Changes
from ims_ledger.errors import ConcurrentTransition
from ims_worker.decisions import (
    JobFailed,
    JobRuns,
    JobSucceeded,
    PollingPolicy,
    back_off,
    interpret_job,
    ordinal,
    progress_of,
)
from ims_worker.errors import (
    CloudProblem,
    JobNotFound,
    LoginRefused,
    NotSent,
    OutcomeUnknown,
    Refused,
    Throttled,
    ThrottleScope,
    Unavailable,
)
from ims_worker.ports import (
    Clouds,
    Cooldowns,
    ImageId,
    ImageService,
    JobId,
    Records,
    Transitions,
)

logger = logging.getLogger(__name__)

# Clocks of cloud and worker differ; an image a little older than our request may be ours.
CLOCK_SKEW: Final = timedelta(minutes=5)
# A hold (quota, rights, balance) is lifted by a person: asking more often helps nobody.
BLOCKED_PAUSE: Final = timedelta(minutes=5)
# Without a Retry-After: others use the project as well, and jobs take minutes.
COOL_DOWN: Final = timedelta(seconds=30)
# What is tried again by itself: only jobs that failed for a passing reason, and not for ever.
MAX_ATTEMPTS: Final = 3
MAX_LOST_ANSWERS: Final = 5
GONE: Final = frozenset({"killed", "deleted", "pending_delete", "gone"})


@dataclass(frozen=True, slots=True, kw_only=True)
class PollState:
    """What is known of an import between two looks and need not survive everything."""

    polls: int = 0
    progress: Progress = field(default_factory=Progress)
    status_text: str = ""
    """What the last look told Celery's result backend, so that it is told only what is new."""


@dataclass(frozen=True, slots=True)
class Finished:
    """The import has ended; the record says how."""

    result: ImportResult


@dataclass(frozen=True, slots=True)
class PollAgain:
    """Not yet: look again after this pause."""

    after: timedelta
    record: ImportRecord
    live: PollState


Next = Finished | PollAgain


@dataclass(frozen=True, slots=True, kw_only=True)
class Importer:
    """Takes the next step of an import, whatever state it was left in."""

    records: Records
    transitions: Transitions
    clouds: Clouds
    cooldowns: Cooldowns
    patience: PollingPolicy
    max_active: int
    uncertain_policy: Literal["resubmit", "ask"]
    now: Callable[[], datetime]

    def submit(self, import_id: str) -> Next:
        """Ask IMS for the image, unless this was done or is being done already."""
        record = self.records.get(import_id)
        if record.state not in (State.QUEUED, State.WAITING):
            return self._at_once(record)
        try:
            return self._submit(record)
        except ConcurrentTransition as stale:
            return self._at_once(stale.current)

    def poll(self, import_id: str, live: PollState) -> Next:
        """Look once at an import that has been submitted."""
        record = self.records.get(import_id)
        if record.project and (rest := self.cooldowns.rest(record.project, create=False)):
            return PollAgain(rest, record, live)
        live = replace(live, polls=live.polls + 1)
        try:
            return self._look(record, live)
        except ConcurrentTransition as stale:
            return self._at_once(stale.current, live)
        except CloudProblem as problem:
            self._slow_down(record.project, problem)
            # A look that failed says nothing about the import.
            logger.warning("look failed", extra={"import_id": import_id, "why": str(problem)})
            return self._again(record, live, at_least=problem.retry_after)

    # --- asking ---------------------------------------------------------------------------

    def _submit(self, record: ImportRecord) -> Next:
        if record.cancel:
            return self._canceled(record, "canceled before IMS had taken it")
        try:
            service = self.clouds.service(record.cloud)
            project = service.project()
        except CloudProblem as problem:
            return self._not_taken(record, problem)
        if rest := self.cooldowns.rest(project, create=True):
            reason = f"IMS asks to slow down until {self.now() + rest:%H:%M:%S} UTC"
            return self._wait(record, reason, rest, waits_for=WaitsFor.CLOUD, project=project)
        record = self.transitions.admit(
            record.id,
            version=record.version,
            project=project,
            limit=self.max_active,
            why=lambda active, place: (
                f"{active} of {self.max_active} IMS jobs active in project {project}, "
                f"{ordinal(place)} in line"
            ),
        )
        if record.state is State.WAITING:
            # Whoever frees a slot wakes the next in line; this is for the case that it cannot.
            return PollAgain(self.patience.longest, record, PollState())
        return self._create(record, service)

    def _create(self, record: ImportRecord, service: ImageService) -> Next:
        request = parse_request(record.request)
        try:
            job_id = service.create_image(request, import_id=record.id)
        except OutcomeUnknown as problem:
            return self._uncertain(record, problem)
        except CloudProblem as problem:
            return self._not_taken(record, problem)
        return self._taken(record, job_id)

    def _taken(self, record: ImportRecord, job_id: JobId) -> Next:
        # A sweep that lost patience may have called this uncertain meanwhile: now it is known.
        running = self.transitions.move(
            record.id,
            from_state=(State.SUBMITTING, State.UNCERTAIN),
            to=State.RUNNING,
            job_id=job_id,
            error=None,
        )
        return self._at_once(running)

    def _not_taken(self, record: ImportRecord, problem: CloudProblem) -> Next:
        """The request surely has not made an image: wait and ask again, or give up."""
        failure = problem.failure
        pause = problem.retry_after or back_off(max(record.attempts, 1), first=self.patience.first)
        self._slow_down(record.project, problem)
        match problem, failure.error_class:
            case (LoginRefused(), _) | (_, ErrorClass.AUTH):
                return self._wait(
                    record, _why(failure), pause, waits_for=WaitsFor.CREDENTIALS, error=failure
                )
            case (NotSent() | Unavailable(), _) | (Refused(), ErrorClass.RETRY):
                return self._wait(
                    record, _why(failure), pause, waits_for=WaitsFor.CLOUD, error=failure
                )
            case Refused(), ErrorClass.BLOCKED:
                return self._wait(
                    record, _why(failure), BLOCKED_PAUSE, waits_for=WaitsFor.PERSON, error=failure
                )
            case Refused(), ErrorClass.LOOK_FIRST:
                return self._uncertain(record, problem)
            case _:
                return self._failed(record, failure)

    def _slow_down(self, project: str | None, problem: CloudProblem) -> None:
        """Let all workers pause where the cloud says that it is too much."""
        if project is not None and isinstance(problem, Throttled):
            self.cooldowns.begin(
                project,
                problem.retry_after or COOL_DOWN,
                only_creates=problem.scope is ThrottleScope.CREATES,
            )

    def _wait(
        self,
        record: ImportRecord,
        reason: str,
        pause: timedelta,
        **changes: Unpack[Changes],
    ) -> Next:
        if (record.state, record.reason) != (State.WAITING, reason):
            record = self.transitions.move(
                record.id,
                from_state=record.state,
                to=State.WAITING,
                reason=reason,
                **changes,
            )
        return PollAgain(pause, record, PollState())

    # --- looking --------------------------------------------------------------------------

    def _look(self, record: ImportRecord, live: PollState) -> Next:
        record = self._flag_overdue(record)
        match record.state:
            case State.QUEUED | State.WAITING:
                # A submit of its own is due; this is a late copy of an older message.
                return PollAgain(self.patience.first, record, live)
            case State.SUBMITTING:
                # Nobody holds it any more, or this message would not run: its worker died.
                return self._uncertain(record, None)
            case State.UNCERTAIN:
                return self._search(record, self.clouds.service(record.cloud), live)
            case State.RUNNING:
                return self._look_at_job(record, self.clouds.service(record.cloud), live)
            case State.VERIFYING:
                return self._look_at_image(record, self.clouds.service(record.cloud), live)
            case State.SUCCEEDED | State.FAILED | State.CANCELED:
                return self._at_once(record, live)

    def _look_at_job(self, record: ImportRecord, service: ImageService, live: PollState) -> Next:
        try:
            job = service.read_job(_job_id(record))
        except JobNotFound as problem:
            return self._uncertain(record, problem)
        match interpret_job(job):
            case JobFailed(failure):
                return self._job_failed(record, failure, live)
            case JobSucceeded(image_id):
                if image_id is None:
                    return self._uncertain(record, None)
                return self._verify(record, image_id, service, live)
            case JobRuns(percent):
                return self._runs(record, percent, live)

    def _job_failed(self, record: ImportRecord, failure: Failure, live: PollState) -> Next:
        again = failure.error_class is ErrorClass.RETRY and record.attempts < MAX_ATTEMPTS
        if not again or record.cancel:
            return self._failed(record, failure, polls=live.polls)
        reason = f"attempt {record.attempts} of {MAX_ATTEMPTS} failed, {_why(failure)}"
        pause = back_off(record.attempts, first=self.patience.first)
        return self._wait(
            record, reason, pause, waits_for=WaitsFor.CLOUD, error=failure, job_id=None
        )

    def _runs(self, record: ImportRecord, percent: float | None, live: PollState) -> Next:
        begun = record.submitted_at or record.created_at
        progress = progress_of(percent, before=live.progress, running=self.now() - begun)
        if progress_steps(progress.percent) > progress_steps(live.progress.percent):
            self.transitions.report_progress(record.id, progress)
        return self._again(record, replace(live, progress=progress))

    def _verify(
        self, record: ImportRecord, image_id: ImageId, service: ImageService, live: PollState
    ) -> Next:
        record = self.transitions.move(
            record.id,
            from_state=record.state,
            to=State.VERIFYING,
            image_id=image_id,
            reason=record.reason,
        )
        return self._look_at_image(record, service, live)

    def _look_at_image(self, record: ImportRecord, service: ImageService, live: PollState) -> Next:
        image = service.read_image(ImageId(record.image_id or ""))
        status = image.status if image else None
        if image is None and self._waited_long(record) and not service.images_tagged(record.id):
            # Two answers, because a 404 may come from whatever stands between us and IMS.
            status = "gone"
        if record.cancel == "delete" and status in GONE:
            return self._image_deleted(record, live)
        if status in GONE:
            failure = _image_is(status, record)
            return self._failed(record, failure, polls=live.polls)
        if image is None or status != "active":
            return self._again(record, live)
        if record.cancel:
            return self._cancel_image(record, service, live)
        return Finished(
            self.transitions.move(
                record.id,
                from_state=State.VERIFYING,
                to=State.SUCCEEDED,
                # Who cancels in this very moment is heard: the move is then stale.
                version=record.version,
                reason=record.reason,
                image=image,
                polls=live.polls,
            )
        )

    def _waited_long(self, record: ImportRecord) -> bool:
        return self.now() - (record.updated_at or record.created_at) >= self.patience.settle

    def _cancel_image(self, record: ImportRecord, service: ImageService, live: PollState) -> Next:
        if record.cancel == "leave":
            reason = f"canceled; image {record.image_id} was left as asked"
            return self._canceled(record, reason, polls=live.polls)
        # Deleting twice is deleting: whoever dies in between does it again.
        service.delete_image(ImageId(record.image_id or ""))
        return self._image_deleted(record, live)

    def _image_deleted(self, record: ImportRecord, live: PollState) -> Next:
        reason = f"canceled; its image {record.image_id} was deleted"
        return self._canceled(record, reason, polls=live.polls)

    def _canceled(self, record: ImportRecord, reason: str, **changes: Unpack[Changes]) -> Next:
        return Finished(
            self.transitions.move(
                record.id, from_state=record.state, to=State.CANCELED, reason=reason, **changes
            )
        )

    # --- what became of a lost answer -----------------------------------------------------

    def _uncertain(self, record: ImportRecord, problem: CloudProblem | None) -> Next:
        why = (
            f"the answer to the request was lost: {problem}"
            if isinstance(problem, OutcomeUnknown)
            else f"looking for its image first: {problem}"
            if problem
            else "the worker died while it asked"
            if record.state is State.SUBMITTING
            else "IMS says the job succeeded but names no image"
        )
        record = self.transitions.move(
            record.id,
            from_state=record.state,
            to=State.UNCERTAIN,
            version=record.version,
            reason=why,
        )
        return PollAgain(min(self.patience.first, timedelta(seconds=2)), record, PollState())

    def _search(self, record: ImportRecord, service: ImageService, live: PollState) -> Next:
        if record.job_id is not None and (found := self._job_is_back(record, service)):
            return found
        images = service.images_tagged(record.id)
        if not images:
            since = record.created_at - CLOCK_SKEW
            images = _same_source(record, service.images_named(record.name, since=since))
        match self._of_this_attempt(record, images):
            case [image]:
                reason = "job id lost; its image was found and is followed"
                record = record.model_copy(update={"reason": reason})
                return self._verify(record, ImageId(image.id), service, live)
            case []:
                return self._nothing_found(record, live)
            case several:
                ids = ", ".join(image.id for image in several)
                return self._ask_a_person(record, f"several images for one request: {ids}", live)

    def _of_this_attempt(
        self, record: ImportRecord, images: Sequence[ImageFacts]
    ) -> list[ImageFacts]:
        """Without what earlier attempts have left: dead images, and those that were kept."""
        if record.attempts <= 1:
            return list(images)
        earlier = self.records.earlier_images(record.id)
        return [image for image in images if image.status not in GONE and image.id not in earlier]

    def _job_is_back(self, record: ImportRecord, service: ImageService) -> Next | None:
        try:
            job = service.read_job(_job_id(record))
        except Refused:
            return None
        if interpret_job(job) == JobSucceeded(None):
            # The very answer that brought us here.
            return None
        running = self.transitions.move(record.id, from_state=State.UNCERTAIN, to=State.RUNNING)
        return self._at_once(running)

    def _nothing_found(self, record: ImportRecord, live: PollState) -> Next:
        since = record.updated_at or record.created_at
        if self.now() - since < self.patience.settle:
            return self._again(record, live)
        if record.job_id is not None:
            return self._failed(record, _job_lost(record), polls=live.polls)
        if record.cancel:
            reason = "canceled; no image of it was found"
            return self._canceled(record, reason, polls=live.polls)
        if self.uncertain_policy == "ask" or record.attempts >= MAX_LOST_ANSWERS:
            return self._ask_a_person(record, "no image found; a person must decide", live)
        queued = self.transitions.move(
            record.id,
            from_state=State.UNCERTAIN,
            to=State.QUEUED,
            version=record.version,
            reason=f"no image found within {self.patience.settle}: asking again",
        )
        return self._at_once(queued)

    def _ask_a_person(self, record: ImportRecord, why: str, live: PollState) -> Next:
        if record.reason != why:
            record = self.transitions.move(
                record.id,
                from_state=State.UNCERTAIN,
                to=State.UNCERTAIN,
                reason=why,
                waits_for=WaitsFor.PERSON,
            )
        return PollAgain(self.patience.longest, record, live)

    # --- what comes next ------------------------------------------------------------------

    def _failed(self, record: ImportRecord, failure: Failure, **changes: Unpack[Changes]) -> Next:
        if record.cancel:
            reason = f"canceled; it had failed by itself: {_why(failure)}"
            return self._canceled(record, reason, **changes)
        changes["error"] = failure
        return Finished(
            self.transitions.move(
                record.id,
                from_state=record.state,
                to=State.FAILED,
                reason=_why(failure),
                **changes,
            )
        )

    def _flag_overdue(self, record: ImportRecord) -> ImportRecord:
        late = self.now() - record.created_at
        if record.overdue or record.state.terminal or late < self.patience.deadline:
            return record
        return self.transitions.add_event(
            record.id, "overdue", overdue=True, reason=f"still {record.state} after {late}"
        )

    def _again(
        self, record: ImportRecord, live: PollState, *, at_least: timedelta | None = None
    ) -> PollAgain:
        eta = live.progress.eta_s
        pause = self.patience.pause(
            live.polls,
            eta=None if eta is None else timedelta(seconds=eta),
            overdue=record.overdue,
        )
        return PollAgain(max(pause, at_least or pause), record, live)

    def _at_once(self, record: ImportRecord, live: PollState | None = None) -> Next:
        if record.state.terminal:
            return Finished(self.records.get(record.id))
        return PollAgain(timedelta(0), record, live or PollState())


def _job_id(record: ImportRecord) -> JobId:
    assert record.job_id is not None, f"import {record.id} is {record.state} without a job id"  # noqa: S101  # the ledger's own rule
    return JobId(record.job_id)


def _why(failure: Failure) -> str:
    return f"{failure.code}: {failure.message}"


def _same_source(record: ImportRecord, images: Sequence[ImageFacts]) -> list[ImageFacts]:
    """Of images with our name, those made from our file: `__data_origin` is `file,<image_url>`."""
    return [image for image in images if image.data_origin == f"file,{record.image_url}"]


def _image_is(status: str, record: ImportRecord) -> Failure:
    return Failure(
        code=f"IMAGE.{status}",
        message=f"the job ended, but image {record.image_id} is {status}",
        error_class=ErrorClass.PERMANENT,
        hint="Check the image file and submit it again.",
    )


def _job_lost(record: ImportRecord) -> Failure:
    return Failure(
        code="JOB.lost",
        message=f"IMS tells no image of job {record.job_id}, and none of this import was found",
        error_class=ErrorClass.LOOK_FIRST,
        hint="Look for the image in the IMS console; submit again if it is not there.",
    )
