"""Runs one import step by step: submit it, poll its job and image until it ends.

Each method takes one step and returns what comes next; the caller schedules the next step.
"""

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final, Literal, Unpack

from ims_config.import_request import ImportRequest, InvalidRequest, parse_stored_request
from ims_config.records import (
    ErrorClass,
    Failure,
    ImageFacts,
    ImportRecord,
    Origin,
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
    image_unusable,
    interpret_job,
    invalid_request,
    job_lost,
    name_exists,
    ordinal,
    poll_error,
    progress_of,
)
from ims_worker.errors import (
    CloudProblem,
    JobNotFound,
    LoginRefused,
    NameExists,
    NotSent,
    OutcomeUnknown,
    Refused,
    Throttled,
    ThrottleScope,
    Unavailable,
)
from ims_worker.ownership import own_images, same_source
from ims_worker.ports import (
    Clouds,
    Cooldowns,
    ImageId,
    ImageService,
    JobId,
    Records,
    Transitions,
)
from ims_worker.steps import Finished, NextStep, PollAgain, PollState

logger = logging.getLogger(__name__)

# The clocks of cloud and worker differ: an image slightly older than its import may be ours.
CLOCK_SKEW: Final = timedelta(minutes=5)
# A person lifts what blocks an import (quota, rights, balance): retrying sooner does not help.
BLOCKED_PAUSE: Final = timedelta(minutes=5)
# Used without a Retry-After: the project is shared with other users, and jobs take minutes.
COOL_DOWN: Final = timedelta(seconds=30)
# The first search comes soon: most lost responses belong to requests that arrived.
FIRST_SEARCH: Final = timedelta(seconds=2)
# Attempts of a job that fails with an error of class retry.
MAX_ATTEMPTS: Final = 3
MAX_LOST_RESPONSES: Final = 5
# States in which a poll calls IMS.
ASKS_THE_CLOUD: Final = (State.UNCERTAIN, State.RUNNING, State.VERIFYING)
GONE: Final = frozenset({"killed", "deleted", "pending_delete", "gone"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Importer:
    """Takes the next step of an import, whatever state it is in."""

    records: Records
    transitions: Transitions
    clouds: Clouds
    cooldowns: Cooldowns
    policy: PollingPolicy
    max_active: int
    uncertain_policy: Literal["resubmit", "ask"]
    now: Callable[[], datetime]

    def submit(self, import_id: str) -> NextStep:
        """Send the create request, unless it was sent or is being sent."""
        record = self.records.get(import_id)
        if record.state not in (State.QUEUED, State.WAITING):
            return self._at_once(record)
        try:
            return self._submit(record)
        except ConcurrentTransition as conflict:
            return self._at_once(conflict.current)

    def poll(self, import_id: str, poll: PollState) -> NextStep:
        """Poll a submitted import once."""
        record = self.records.get(import_id)
        if record.project and (pause := self.cooldowns.rest(record.project, create=False)):
            return PollAgain(pause, record, poll)
        poll = replace(poll, polls=poll.polls + 1)
        try:
            step = self._poll(record, poll)
        except ConcurrentTransition as conflict:
            return self._at_once(conflict.current, poll)
        except CloudProblem as problem:
            self._cool_down(record.project, problem)
            return self._poll_failed(record, poll, problem)
        return self._poll_succeeded(step) if record.state in ASKS_THE_CLOUD else step

    # --- submit ---------------------------------------------------------------------------

    def _submit(self, record: ImportRecord) -> NextStep:
        if record.cancel:
            return self._canceled(record, "canceled before the request was sent")
        try:
            # Before the intent is written: an invalid request is no lost response.
            request = parse_stored_request(record.request, record.request_version)
        except InvalidRequest as exc:
            return self._failed(record, invalid_request(exc))
        try:
            service = self.clouds.service(record.cloud)
            project = service.project()
        except CloudProblem as problem:
            return self._not_created(record, problem)
        if pause := self.cooldowns.rest(project, create=True):
            reason = f"IMS asks to slow down until {self.now() + pause:%H:%M:%S} UTC"
            return self._wait(record, reason, pause, waits_for=WaitsFor.CLOUD, project=project)
        record = self._admit(record, project)
        if record.state is State.WAITING:
            # An import that ends wakes the next in line; this pause covers the case that it fails.
            return PollAgain(self.policy.longest, record, PollState())
        return self._create(record, request, service)

    def _admit(self, record: ImportRecord, project: str) -> ImportRecord:
        return self.transitions.admit(
            record.id,
            version=record.version,
            project=project,
            limit=self.max_active,
            why=lambda active, place: (
                f"{active} of {self.max_active} IMS jobs active in project {project}, "
                f"{ordinal(place)} in line"
            ),
        )

    def _create(
        self, record: ImportRecord, request: ImportRequest, service: ImageService
    ) -> NextStep:
        try:
            job_id = service.create_image(request, import_id=record.id)
        except OutcomeUnknown as problem:
            return self._uncertain(record, f"the response to the request was lost: {problem}")
        except NameExists as problem:
            return self._name_exists(record, problem, service)
        except CloudProblem as problem:
            return self._not_created(record, problem)
        running = self.transitions.move(
            record.id,
            # UNCERTAIN: another worker took over while this one waited for the response.
            from_state=(State.SUBMITTING, State.UNCERTAIN),
            to=State.RUNNING,
            job_id=job_id,
            error=None,
        )
        return self._at_once(running)

    def _name_exists(
        self, record: ImportRecord, problem: NameExists, service: ImageService
    ) -> NextStep:
        """An image of this name is ours if an earlier response was lost; otherwise we fail."""
        with suppress(CloudProblem):
            images = service.images_named(record.name)
            own = own_images(record, images)
            maybe = self._of_this_attempt(record, own)
            if record.attempts > 1:
                # The image of a lost response may show its tag and its source later.
                recent = service.images_named(record.name, since=record.created_at - CLOCK_SKEW)
                maybe += [image for image in recent if image not in own and not image.tags]
            if images and not maybe:
                return self._failed(record, name_exists(problem.failure, images[0]))
        return self._uncertain(record, f"searching for its image: {problem}")

    def _not_created(self, record: ImportRecord, problem: CloudProblem) -> NextStep:
        """The request certainly has not created an image: wait and retry, or fail."""
        failure = problem.failure
        reason = str(failure)
        pause = problem.retry_after or back_off(max(record.attempts, 1), first=self.policy.first)
        self._cool_down(record.project, problem)
        match problem, failure.error_class:
            case (LoginRefused(), _) | (_, ErrorClass.AUTH):
                waits_for = WaitsFor.CREDENTIALS
            case _, ErrorClass.BLOCKED:
                waits_for, pause = WaitsFor.PERSON, BLOCKED_PAUSE
            case (NotSent() | Unavailable(), _) | (Refused(), ErrorClass.RETRY):
                waits_for = WaitsFor.CLOUD
            case Refused(), ErrorClass.LOOK_FIRST:
                return self._uncertain(record, f"searching for its image: {problem}")
            case _:
                return self._failed(record, failure)
        return self._wait(record, reason, pause, waits_for=waits_for, error=failure)

    def _cool_down(self, project: str | None, problem: CloudProblem) -> None:
        """Pause the calls of all workers that the cloud throttles."""
        if project is not None and isinstance(problem, Throttled):
            self.cooldowns.begin(
                project,
                problem.retry_after or COOL_DOWN,
                only_creates=problem.scope is ThrottleScope.CREATES,
            )

    def _wait(
        self, record: ImportRecord, reason: str, pause: timedelta, **changes: Unpack[Changes]
    ) -> NextStep:
        if (record.state, record.reason) != (State.WAITING, reason):
            record = self.transitions.move(
                record.id, from_state=record.state, to=State.WAITING, reason=reason, **changes
            )
        return PollAgain(pause, record, PollState())

    # --- poll -----------------------------------------------------------------------------

    def _poll(self, record: ImportRecord, poll: PollState) -> NextStep:
        record = self._flag_overdue(record)
        match record.state:
            case State.QUEUED | State.WAITING:
                # A late copy of an older message: this import's submit is scheduled.
                return PollAgain(self.policy.first, record, poll)
            case State.SUBMITTING:
                # Only the death of the worker that submits lets another message get the lease.
                return self._uncertain(record, "the worker died while it sent the request")
            case State.UNCERTAIN:
                return self._search(record, self.clouds.service(record.cloud), poll)
            case State.RUNNING:
                return self._poll_job(record, self.clouds.service(record.cloud), poll)
            case State.VERIFYING:
                return self._poll_image(record, self.clouds.service(record.cloud), poll)
            case State.SUCCEEDED | State.FAILED | State.CANCELED:
                return self._at_once(record, poll)

    def _poll_job(self, record: ImportRecord, service: ImageService, poll: PollState) -> NextStep:
        try:
            job = service.read_job(_job_id(record))
        except JobNotFound as problem:
            return self._uncertain(record, f"searching for its image: {problem}")
        match interpret_job(job):
            case JobFailed(failure):
                return self._job_failed(record, failure, poll)
            case JobSucceeded(image_id) if image_id is not None:
                return self._verify(record, image_id, service, poll)
            case JobSucceeded():
                return self._uncertain(record, "IMS reports SUCCESS without an image id")
            case JobRuns(percent):
                return self._job_runs(record, percent, poll)

    def _job_failed(self, record: ImportRecord, failure: Failure, poll: PollState) -> NextStep:
        retryable = failure.error_class is ErrorClass.RETRY and record.attempts < MAX_ATTEMPTS
        if not retryable or record.cancel or record.origin is Origin.ADOPTED:
            return self._failed(record, failure, polls=poll.polls)
        reason = f"attempt {record.attempts} of {MAX_ATTEMPTS} failed, {failure}"
        pause = back_off(record.attempts, first=self.policy.first)
        return self._wait(
            record, reason, pause, waits_for=WaitsFor.CLOUD, error=failure, job_id=None
        )

    def _job_runs(self, record: ImportRecord, percent: float | None, poll: PollState) -> NextStep:
        running = self.now() - (record.submitted_at or record.created_at)
        progress = progress_of(percent, before=poll.progress, running=running)
        if progress_steps(progress.percent) > progress_steps(poll.progress.percent):
            self.transitions.report_progress(record.id, progress)
        return self._later(record, replace(poll, progress=progress))

    def _verify(
        self,
        record: ImportRecord,
        image_id: ImageId,
        service: ImageService,
        poll: PollState,
    ) -> NextStep:
        record = self.transitions.move(
            record.id,
            from_state=record.state,
            to=State.VERIFYING,
            image_id=image_id,
            reason=record.reason,
        )
        return self._poll_image(record, service, poll)

    def _poll_image(self, record: ImportRecord, service: ImageService, poll: PollState) -> NextStep:
        image = service.read_image(ImageId(record.image_id or ""))
        status = image.status if image else None
        if image is None and self._settled(record) and not service.images_tagged(record.id):
            # Two calls agree: a single 404 may come from a proxy in front of IMS.
            status = "gone"
        if status in GONE:
            if record.cancel == "delete":
                return self._image_deleted(record, poll)
            return self._failed(record, image_unusable(status, record), polls=poll.polls)
        if image is None or status != "active":
            return self._later(record, poll)
        if record.cancel:
            return self._cancel_image(record, service, poll)
        succeeded = self.transitions.move(
            record.id,
            from_state=State.VERIFYING,
            to=State.SUCCEEDED,
            # A cancel request that arrives now wins: it changes the version.
            version=record.version,
            reason=record.reason,
            image=image,
            polls=poll.polls,
        )
        return Finished(succeeded)

    def _settled(self, record: ImportRecord) -> bool:
        """Whether the cloud had time to show the effect of the last transition."""
        return self.now() - (record.updated_at or record.created_at) >= self.policy.settle

    def _cancel_image(
        self, record: ImportRecord, service: ImageService, poll: PollState
    ) -> NextStep:
        if record.cancel == "leave":
            reason = f"canceled; image {record.image_id} was kept as requested"
            return self._canceled(record, reason, polls=poll.polls)
        # DELETE is idempotent; a crash here just repeats it.
        service.delete_image(ImageId(record.image_id or ""))
        return self._image_deleted(record, poll)

    def _image_deleted(self, record: ImportRecord, poll: PollState) -> NextStep:
        reason = f"canceled; its image {record.image_id} was deleted"
        return self._canceled(record, reason, polls=poll.polls)

    # --- search after a lost response -------------------------------------------------------

    def _uncertain(self, record: ImportRecord, reason: str) -> NextStep:
        record = self.transitions.move(
            record.id,
            from_state=record.state,
            to=State.UNCERTAIN,
            version=record.version,
            reason=reason,
        )
        return PollAgain(min(self.policy.first, FIRST_SEARCH), record, PollState())

    def _search(self, record: ImportRecord, service: ImageService, poll: PollState) -> NextStep:
        if record.job_id is not None and (step := self._follow_job_again(record, service)):
            return step
        images = service.images_tagged(record.id)
        if not images:
            since = record.created_at - CLOCK_SKEW
            images = same_source(record, service.images_named(record.name, since=since))
        match self._of_this_attempt(record, images):
            case [image]:
                reason = "job id lost; its image was found"
                record = record.model_copy(update={"reason": reason})
                return self._verify(record, ImageId(image.id), service, poll)
            case []:
                return self._not_found(record, poll)
            case several:
                ids = ", ".join(image.id for image in several)
                return self._ask(record, f"several images for one request: {ids}", poll)

    def _of_this_attempt(
        self, record: ImportRecord, images: Sequence[ImageFacts]
    ) -> list[ImageFacts]:
        """Without images of earlier attempts: dead ones, and those that were kept."""
        if record.attempts <= 1:
            return list(images)
        earlier = self.records.earlier_images(record.id)
        return [image for image in images if image.status not in GONE and image.id not in earlier]

    def _follow_job_again(self, record: ImportRecord, service: ImageService) -> NextStep | None:
        """Back to RUNNING if IMS knows the job after all."""
        try:
            job = service.read_job(_job_id(record))
        except JobNotFound:
            return None
        if interpret_job(job) == JobSucceeded(None):
            # The response that made the import UNCERTAIN.
            return None
        running = self.transitions.move(record.id, from_state=State.UNCERTAIN, to=State.RUNNING)
        return self._at_once(running)

    def _not_found(self, record: ImportRecord, poll: PollState) -> NextStep:
        if not self._settled(record):
            return self._later(record, poll)
        if record.job_id is not None:
            return self._failed(record, job_lost(record), polls=poll.polls)
        if record.cancel:
            return self._canceled(record, "canceled; no image was found", polls=poll.polls)
        if self.uncertain_policy == "ask" or record.attempts >= MAX_LOST_RESPONSES:
            return self._ask(record, "no image found; a person must decide", poll)
        queued = self.transitions.move(
            record.id,
            from_state=State.UNCERTAIN,
            to=State.QUEUED,
            version=record.version,
            reason=f"no image found within {self.policy.settle}: submitting again",
        )
        return self._at_once(queued)

    def _ask(self, record: ImportRecord, reason: str, poll: PollState) -> NextStep:
        """Leave the decision to a person."""
        if record.reason != reason:
            record = self.transitions.move(
                record.id,
                from_state=State.UNCERTAIN,
                to=State.UNCERTAIN,
                reason=reason,
                waits_for=WaitsFor.PERSON,
            )
        return PollAgain(self.policy.longest, record, poll)

    # --- what comes next ------------------------------------------------------------------

    def _canceled(self, record: ImportRecord, reason: str, **changes: Unpack[Changes]) -> Finished:
        return Finished(
            self.transitions.move(
                record.id, from_state=record.state, to=State.CANCELED, reason=reason, **changes
            )
        )

    def _failed(
        self, record: ImportRecord, failure: Failure, **changes: Unpack[Changes]
    ) -> Finished:
        if record.cancel:
            reason = f"canceled; it had already failed: {failure}"
            return self._canceled(record, reason, **changes)
        changes["error"] = failure
        return Finished(
            self.transitions.move(
                record.id,
                from_state=record.state,
                to=State.FAILED,
                reason=str(failure),
                **changes,
            )
        )

    def _poll_failed(
        self, record: ImportRecord, poll: PollState, problem: CloudProblem
    ) -> PollAgain:
        """A failed poll says nothing about the import; the record says that polls fail."""
        error = poll_error(
            problem.failure, before=record.poll_error, failures=poll.failures, now=self.now()
        )
        poll = replace(poll, last_at=self.now(), failures=error.count)
        if record.poll_error is None or record.poll_error.code != error.code:
            extra = {"import_id": record.id, "reason": str(problem)}
            logger.warning("poll failed", extra=extra)
            record = self.transitions.report_poll_error(record.id, error)
        # An estimate from before the failures would make them more frequent.
        pause = self.policy.pause(poll.failures or poll.polls, overdue=record.overdue)
        return PollAgain(max(pause, problem.retry_after or pause), record, poll)

    def _poll_succeeded(self, step: NextStep) -> NextStep:
        if isinstance(step, Finished):
            return step
        record, poll = step.record, replace(step.poll_state, last_at=self.now(), failures=None)
        if record.poll_error is not None:
            logger.info("polls succeed again", extra={"import_id": record.id})
            record = self.transitions.report_poll_error(record.id, None)
        return PollAgain(step.after, record, poll)

    def _flag_overdue(self, record: ImportRecord) -> ImportRecord:
        age = self.now() - record.created_at
        if record.overdue or record.state.terminal or age < self.policy.deadline:
            return record
        reason = f"still {record.state} after {age}"
        return self.transitions.add_event(record.id, "overdue", overdue=True, reason=reason)

    def _later(self, record: ImportRecord, poll: PollState) -> PollAgain:
        eta_s = poll.progress.eta_s
        eta = None if eta_s is None else timedelta(seconds=eta_s)
        pause = self.policy.pause(poll.polls, eta=eta, overdue=record.overdue)
        return PollAgain(pause, record, poll)

    def _at_once(self, record: ImportRecord, poll: PollState | None = None) -> NextStep:
        if record.state.terminal:
            return Finished(self.records.get(record.id))
        return PollAgain(timedelta(0), record, poll or PollState())


def _job_id(record: ImportRecord) -> JobId:
    assert record.job_id is not None, f"import {record.id} is {record.state} without a job id"  # noqa: S101  # guaranteed by the transitions
    return JobId(record.job_id)
