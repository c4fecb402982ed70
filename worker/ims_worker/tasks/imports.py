"""Tasks of the import flow: record a request that came as a message, submit it, poll it."""

import logging
import random
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final

from celery import Celery, Task
from celery.exceptions import Ignore
from redis import RedisError

from ims_config import names
from ims_config.import_request import InvalidRequest, parse_request
from ims_config.records import ImportRecord, ImportResult, State, WaitsFor
from ims_config.signatures import ImportRef, import_flow, ref_to
from ims_config.validation import FieldError
from ims_ledger.errors import LedgerOutdated, LedgerUnavailable, NotFound
from ims_worker import bootstrap
from ims_worker.adapters.redis.leases import Lease
from ims_worker.bootstrap import Services
from ims_worker.canvas import canvas_of, canvas_of_chain
from ims_worker.steps import Finished, NextStep, PollAgain, PollState
from ims_worker.tasks.results import FinalResult, ImportFailed, NotYet, failure_of

logger = logging.getLogger(__name__)

# After an outage of Redis or the ledger, or a defect: soon, but not in a tight loop.
OUTAGE_PAUSE: Final = timedelta(seconds=10)
# Spreads imports that were rescheduled together.
LONGEST_JITTER: Final = 1.1
# The task id becomes the value of the image tag by which a lost image is found.
_TAG_VALUE: Final = re.compile(r"[A-Za-z0-9_\-]{1,43}")

RawRef = Mapping[str, object] | str


def register(app: Celery) -> None:
    poll = app.task(
        name=names.POLL_IMPORT,
        bind=True,
        base=PollTask,
        ignore_result=False,
        # STARTED would replace the RETRY that a producer sees between two polls.
        track_started=False,
        max_retries=None,
        throws=(ImportFailed, NotFound),
    )(poll_import)
    app.task(
        name=names.IMPORT_IMAGE,
        bind=True,
        ignore_result=False,
        max_retries=None,
        throws=(InvalidRequest,),
    )(_import_image(app, poll))
    app.task(name=names.SUBMIT_IMPORT, bind=True)(submit_import)


# --- import_image ---------------------------------------------------------------------------


def _import_image(app: Celery, poll: Any) -> Callable[..., Any]:
    def import_image(self: Any, request: Mapping[str, object]) -> Any:
        """Record a request; the import gets the id of this task."""
        if not _TAG_VALUE.fullmatch(self.request.id):
            raise InvalidRequest(
                FieldError(
                    "task_id",
                    "must be 1 to 43 letters, digits, '_' or '-' (it becomes an image tag)",
                    repr(self.request.id),
                )
            )
        checked = parse_request(request)
        imports = bootstrap.services().ledger.imports
        try:
            record, created = imports.record(
                checked, import_id=self.request.id, requested_by=f"celery:{self.request.origin}"
            )
            if created:
                imports.save_canvas(record.id, canvas_of(self, poll))
            elif imports.is_reported(record.id):
                raise Ignore("a late copy of a message whose import has ended")
        except (LedgerUnavailable, LedgerOutdated) as exc:
            # The message is the only copy of the request: keep it in the queue.
            raise self.retry(exc=exc, countdown=OUTAGE_PAUSE.total_seconds()) from exc
        return self.replace(import_flow(app, record))

    return import_image


# --- submit_import and poll_import ----------------------------------------------------------


def submit_import(self: Any, raw_ref: RawRef) -> ImportRef:
    """Submit once; the chain goes on to the poll only if the import was submitted."""
    services = bootstrap.services()
    ref = ImportRef.parse(raw_ref)
    if canvas := canvas_of_chain(self.app, self.request):
        _save_canvas(services, ref.id, canvas)
    lease, poll_state = _acquire(services, ref)
    step = _take(services, lease, poll_state, lambda: services.importer.submit(ref.id))
    pause, record = _pause_and_record(step)
    _log(record)
    if record.state is State.WAITING and record.waits_for is not WaitsFor.SLOT:
        _wake_next(services, record)
    if pause > timedelta(0) or not self.request.chain:
        _store_retry(self, ref.id, _status_text(record, poll_state))
        _reschedule(services, lease, pause, poll_state)
        raise Ignore(record.state)
    # Celery now sends the poll with this generation; if it is lost, the lease expires.
    _reschedule(services, lease, services.settings.stale_after_s, poll_state)
    return ref_to(record, lease.generation)


def poll_import(self: Any, raw_ref: RawRef) -> FinalResult:
    """Poll once; returns the final record when the import has ended."""
    services = bootstrap.services()
    ref = ImportRef.parse(raw_ref)
    lease, before = _acquire(services, ref)
    step = _take(services, lease, before, lambda: services.importer.poll(ref.id, before))
    match step:
        case Finished(result):
            _log(result)
            _wake_next(services, result)
            return _final(services, lease, result)
        case PollAgain(pause, record, poll_state):
            text = _status_text(record, poll_state)
            if text != before.status_text:
                _store_retry(self, ref.id, text)
            if record.state is not (before.state or State.RUNNING):
                _log(record)
            if self.request.called_directly is False:
                self.send_event("task-retried", exception=text, traceback="")
            after = replace(poll_state, state=record.state, status_text=text)
            _reschedule(services, lease, pause, after)
            raise Ignore(text)


class PollTask(Task):  # type: ignore[misc]  # Celery is untyped
    """Marks the import as reported once its result is in the result backend."""

    def after_return(self, _status: str, retval: object, task_id: str, *_: object) -> None:
        services = bootstrap.services()
        if not isinstance(retval, NotFound):
            services.ledger.imports.mark_reported(task_id)
        services.due.remove(task_id)


def _acquire(services: Services, ref: ImportRef) -> tuple[Lease, PollState]:
    try:
        acquired = services.leases.acquire(ref.id, ref.generation)
    except RedisError as exc:
        # The import stays in the schedule, or the sweep restores it.
        logger.warning("Redis is unavailable; the step is postponed", extra={"reason": str(exc)})
        raise Ignore("Redis is unavailable") from exc
    if acquired is None:
        raise Ignore("a newer message has this import")
    return acquired


def _take(
    services: Services, lease: Lease, poll_state: PollState, step: Callable[[], NextStep]
) -> NextStep:
    """Take one step of the importer; an outage or a defect does not end the import."""
    try:
        return step()
    except NotFound:
        services.leases.release(lease)
        raise
    except LedgerUnavailable as exc:
        logger.warning(
            "the ledger is unavailable; the step is postponed", extra={"reason": str(exc)}
        )
        _reschedule(services, lease, OUTAGE_PAUSE, poll_state)
        raise Ignore("the ledger is unavailable") from exc
    except Exception as exc:
        logger.exception("a step failed unexpectedly", extra={"import_id": lease.import_id})
        _reschedule(services, lease, OUTAGE_PAUSE, poll_state)
        raise Ignore("unexpected error") from exc


def _pause_and_record(step: NextStep) -> tuple[timedelta, ImportRecord]:
    match step:
        case Finished(result):
            return timedelta(0), result
        case PollAgain(pause, record):
            return pause, record


def _reschedule(services: Services, lease: Lease, pause: timedelta, poll_state: PollState) -> None:
    pause *= random.uniform(1, LONGEST_JITTER)  # noqa: S311  # no cryptography
    try:
        services.leases.reschedule(lease, after=pause, poll_state=poll_state)
    except RedisError as exc:
        logger.warning(
            "Redis is unavailable; the sweep will restore the import", extra={"reason": str(exc)}
        )


def _wake_next(services: Services, record: ImportRecord) -> None:
    """Run the imports for which this one has freed a slot."""
    if record.project is None:
        return
    try:
        limit = services.settings.max_active_per_project
        services.due.run_now(services.ledger.transitions.next_in_line(record.project, limit=limit))
    except (RedisError, LedgerUnavailable) as exc:
        logger.warning("the next import in line was not woken", extra={"reason": str(exc)})


def _final(services: Services, lease: Lease, result: ImportResult) -> FinalResult:
    if services.ledger.imports.is_reported(result.id):
        services.due.remove(result.id)
        raise Ignore("already reported")
    services.leases.release(lease)
    if result.state is State.SUCCEEDED:
        return FinalResult(result)
    raise failure_of(result)


def _status_text(record: ImportRecord, poll_state: PollState) -> str:
    percent = poll_state.progress.percent
    # A percentage from before the failures is not the current one.
    progress = "" if percent is None or record.poll_error else f"{percent:.0f} %"
    cancel = "cancel requested" if record.canceling else ""
    parts = [str(record.state), cancel, progress, record.reason or "", str(record.poll_error or "")]
    return " · ".join(filter(None, parts))


def _store_retry(task: Any, import_id: str, text: str) -> None:
    """Show the import's id as RETRY with its progress; a failure to do so is harmless."""
    try:
        task.backend.mark_as_retry(import_id, NotYet(text), traceback="", request=None)
    except Exception as exc:  # noqa: BLE001  # each backend has its own errors
        logger.warning("the result backend did not store the progress", extra={"reason": str(exc)})


def _save_canvas(services: Services, import_id: str, canvas: str) -> None:
    try:
        services.ledger.imports.save_canvas(import_id, canvas)
    except (LedgerUnavailable, NotFound) as exc:
        logger.warning("the canvas was not saved", extra={"reason": str(exc)})


def _log(record: ImportRecord) -> None:
    """One line for each change of an import's state."""
    facts = {
        "import_id": record.id,
        "image_name": record.name,
        "job_id": record.job_id,
        "image_id": record.image_id,
        "reason": record.reason,
    }
    known = {name: value for name, value in facts.items() if value is not None}
    logger.log(level_of(record), "import %s", record.state, extra=known)


def level_of(record: ImportRecord) -> int:
    """ERROR for a failure, WARNING while a person is needed or the outcome is uncertain."""
    if record.state is State.FAILED:
        return logging.ERROR
    waits = record.waits_for in (WaitsFor.PERSON, WaitsFor.CREDENTIALS)
    uncertain = record.state is State.UNCERTAIN or (waits and record.state is State.WAITING)
    return logging.WARNING if uncertain else logging.INFO
