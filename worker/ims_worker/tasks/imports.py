"""The tasks: each translates between Celery and one step of the story, and does nothing else."""

import logging
import random
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
from ims_ledger.errors import LedgerUnavailable, NotFound
from ims_worker import bootstrap
from ims_worker.adapters.redis.leases import Lease
from ims_worker.bootstrap import Services
from ims_worker.canvas import canvas_of, canvas_of_chain
from ims_worker.importer import Finished, Next, PollAgain, PollState

logger = logging.getLogger(__name__)

# After trouble of our own (ledger gone, a defect): soon, but not in a loop.
TROUBLE_PAUSE: Final = timedelta(seconds=10)
# A task id becomes the value of the tag by which the image is found again.
_TAG_VALUE: Final = re.compile(r"[A-Za-z0-9_\-]{1,43}")
LONGEST_JITTER: Final = 1.1


class ImportFailed(Exception):
    """How a Celery app sees an import that FAILED or was CANCELED.

    Arguments, plain JSON, so that an app without this package can read them: the code, the
    cloud's reason, and an object with hint, request_id, http_status, class and import_id.
    """


class NotYet(Exception):
    """What the id of a producer gives between two looks: how the import stands."""


def register(app: Celery) -> None:
    """Add the tasks to a worker's app."""
    poll = app.task(
        name=names.POLL_IMPORT,
        bind=True,
        base=PollTask,
        ignore_result=False,
        # STARTED would hide the RETRY that a producer sees between two looks.
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


# --- a request that comes as a message ------------------------------------------------------


def _import_image(app: Celery, poll: Any) -> Callable[..., Any]:
    def import_image(self: Any, request: dict[str, Any]) -> Any:
        """Record a request that came as a message; its import has this task's id."""
        if not _TAG_VALUE.fullmatch(self.request.id):
            raise InvalidRequest(
                FieldError(
                    "task_id",
                    "must be 1 to 43 letters, digits, '_' or '-' (it becomes an image tag)",
                    repr(self.request.id),
                )
            )
        wanted = parse_request(request)
        services = bootstrap.services()
        try:
            record, created = services.ledger.imports.record(
                wanted, import_id=self.request.id, requested_by=f"celery:{self.request.origin}"
            )
            if created:
                services.ledger.imports.save_canvas(record.id, canvas_of(self, poll))
            elif services.ledger.imports.is_reported(record.id):
                raise Ignore("a late copy of a message whose import has ended")
        except LedgerUnavailable as exc:
            # Only the message knows this request yet: it has to stay.
            raise self.retry(exc=exc, countdown=TROUBLE_PAUSE.total_seconds()) from exc
        return self.replace(import_flow(app, record))

    return import_image


# --- one step -------------------------------------------------------------------------------


def submit_import(self: Any, ticket: ImportRef | str) -> ImportRef:
    """Submit once; what follows in the chain is sent only if the import is on its way."""
    services = bootstrap.services()
    import_id, generation = _opened(ticket)
    if canvas := canvas_of_chain(self.app, self.request):
        with _ledger_may_be_gone():
            services.ledger.imports.save_canvas(import_id, canvas)
    hold, live = _begin(services, import_id, generation)
    step = _take(services, hold, live, lambda: services.importer.submit(import_id))
    match step:
        case Finished(result):
            pause, record = timedelta(0), result
        case PollAgain(pause, record):
            pass
    _log(record)
    if record.state is State.WAITING and record.waits_for is not WaitsFor.SLOT:
        _wake_next(services, record)
    if pause > timedelta(0) or not self.request.chain:
        _tell_retry(self, import_id, _saying(record, live))
        _again(services, hold, pause, live)
        raise Ignore(record.state)
    # The poll that Celery sends now carries this generation; if it is lost, the lease runs out.
    _again(services, hold, services.settings.stale_after_s, live)
    return ref_to(record, hold.generation)


def poll_import(self: Any, ticket: ImportRef | str) -> dict[str, Any]:
    """Look once; the result is the import's final record, and a failure carries its reason."""
    services = bootstrap.services()
    import_id, generation = _opened(ticket)
    hold, live = _begin(services, import_id, generation)
    step = _take(services, hold, live, lambda: services.importer.poll(import_id, live))
    match step:
        case Finished(result):
            _log(result)
            _wake_next(services, result)
            return _final(services, hold, result)
        case PollAgain(pause, record, seen):
            said = _saying(record, seen)
            if said != live.status_text:
                _tell_retry(self, import_id, said)
            if record.state != (live.status_text.partition(" ")[0] or State.RUNNING):
                _log(record)
            if self.request.called_directly is False:
                self.send_event("task-retried", exception=said, traceback="")
            _again(services, hold, pause, replace(seen, status_text=said))
            raise Ignore(said)


class PollTask(Task):  # type: ignore[misc]  # Celery is untyped
    """A task whose end ends the import: only now is its result in the backend."""

    def after_return(self, _status: str, retval: Any, task_id: str, *_what_and_why: Any) -> None:
        services = bootstrap.services()
        if not isinstance(retval, NotFound):
            services.ledger.imports.mark_reported(task_id)
        services.due.remove(task_id)


def _opened(ticket: ImportRef | str) -> tuple[str, int | None]:
    if isinstance(ticket, str):
        return ticket, None
    return ticket["id"], ticket.get("generation")


def _begin(services: Services, import_id: str, generation: int | None) -> tuple[Lease, PollState]:
    try:
        begun = services.leases.acquire(import_id, generation)
    except RedisError as exc:
        # The import stays in the schedule or the sweep puts it back: nothing is lost.
        logger.warning("redis is gone, the look is left to later", extra={"why": str(exc)})
        raise Ignore("Redis is gone") from exc
    if begun is None:
        raise Ignore("a newer message has this import")
    return begun


def _take(services: Services, hold: Lease, live: PollState, step: Callable[[], Next]) -> Next:
    """One step of the story; no trouble of our own ends an import."""
    try:
        return step()
    except NotFound:
        services.leases.release(hold)
        raise
    except LedgerUnavailable as exc:
        logger.warning("ledger is gone, the look is left to later", extra={"why": str(exc)})
        _again(services, hold, TROUBLE_PAUSE, live)
        raise Ignore("the ledger is gone") from exc
    except Exception as exc:
        logger.exception("a step failed unexpectedly", extra={"import_id": hold.import_id})
        _again(services, hold, TROUBLE_PAUSE, live)
        raise Ignore("unexpected") from exc


def _wake_next(services: Services, record: ImportRecord) -> None:
    """Let those begin at once for whom this import has freed a slot."""
    if record.project is None:
        return
    try:
        limit = services.settings.max_active_per_project
        services.due.run_now(services.ledger.transitions.next_in_line(record.project, limit=limit))
    except (RedisError, LedgerUnavailable) as exc:
        logger.warning("the next in line was not woken", extra={"why": str(exc)})


def _again(services: Services, hold: Lease, pause: timedelta, live: PollState) -> None:
    # Jitter: what was put off together should not come back together.
    pause *= random.uniform(1, LONGEST_JITTER)  # noqa: S311  # no cryptography
    try:
        services.leases.reschedule(hold, after=pause, live=live)
    except RedisError as exc:
        logger.warning("redis is gone, the sweep goes on later", extra={"why": str(exc)})


def _final(services: Services, hold: Lease, result: ImportResult) -> dict[str, Any]:
    if services.ledger.imports.is_reported(result.id):
        services.due.remove(result.id)
        raise Ignore("reported already")
    services.leases.release(hold)
    if result.state is State.SUCCEEDED:
        return result.model_dump(mode="json")
    raise _failed(result)


def _failed(result: ImportResult) -> ImportFailed:
    if result.error is None:
        reason = result.reason or f"the import was {result.state}"
        return ImportFailed(str(result.state), reason, {"import_id": result.id})
    details = result.error.model_dump(mode="json", exclude={"code", "message"})
    return ImportFailed(result.error.code, result.error.message, details | {"import_id": result.id})


def _saying(record: ImportRecord, live: PollState) -> str:
    percent = live.progress.percent
    shown = [str(record.state), "" if percent is None else f"{percent:.0f} %", record.reason or ""]
    return " · ".join(filter(None, shown))


def _log(record: ImportRecord) -> None:
    """One line for each thing that became of an import."""
    facts = {
        "import_id": record.id,
        "image_name": record.name,
        "job_id": record.job_id,
        "image_id": record.image_id,
        "reason": record.reason,
    }
    known = {name: value for name, value in facts.items() if value is not None}
    logger.info("import %s", record.state, extra=known)


def _tell_retry(task: Any, import_id: str, said: str) -> None:
    """Show the producer's id as RETRY with what is known; never a reason to fail."""
    try:
        task.backend.mark_as_retry(import_id, NotYet(said), traceback="", request=None)
    except Exception as exc:  # noqa: BLE001  # each backend has errors of its own
        logger.warning("the result backend did not take a progress", extra={"why": str(exc)})


@contextmanager
def _ledger_may_be_gone() -> Iterator[None]:
    try:
        yield
    except (LedgerUnavailable, NotFound) as exc:
        logger.warning("canvas not kept", extra={"why": str(exc)})
