"""The direct backend: reads and writes the ledger, queues work in the broker."""

import getpass
import logging
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Final, TypeVar, Unpack

from celery import Celery
from celery.canvas import Signature
from celery.exceptions import TimeoutError as ResultTimeout
from kombu.exceptions import OperationalError
from redis import Redis, RedisError

from ims_config.celery_app import make_celery
from ims_config.import_request import ImportRequest
from ims_config.names import DUE_KEY, FIND_IMAGES, GC, LEDGER_KEY, RESUME, WATCH_OBJECT
from ims_config.records import (
    ErrorClass,
    Event,
    Failure,
    Frozen,
    ImportRecord,
    ImportResult,
    Scope,
    State,
)
from ims_config.settings import LedgerSettings
from ims_config.signatures import import_flow, poll_signature, ref_to
from ims_config.webhooks import WebhookEvent
from ims_config.worker_reports import FoundImage, FoundImages, GcReport, ResumeReport, WorkerReply
from ims_ledger import Ledger, LedgerNotCurrent, open_ledger
from ims_ledger.api_keys import ApiKey
from ims_ledger.outbox import Delivery, DeliveryState
from ims_ledger.webhook_endpoints import Webhook
from ims_producer import checks
from ims_producer.backends.live import read_live
from ims_producer.backends.protocol import AdoptedLedger, ImportFilter, Submission
from ims_producer.checks import Check
from ims_producer.errors import WorkerRefused, WorkerUnavailable

logger = logging.getLogger(__name__)

Record = TypeVar("Record", bound=ImportRecord)
Report = TypeVar("Report", bound=Frozen)

RESUME_S: Final = 30.0
FIND_S: Final = 60.0
GC_S: Final = 300.0
# How long the comparison with the ledger of the workers counts.
CURRENT_FOR_S: Final = 1.0
GIVEN_UP: Final = Failure(
    code="RESOLVED.failed",
    message="the response of IMS was lost, no image was found, and a person gave the import up",
    error_class=ErrorClass.PERMANENT,
    hint="Start a new attempt: ims-import retry",
)


class DirectBackend:
    """Opens each connection on first use. Every method may raise LedgerUnavailable and
    LedgerOutdated."""

    def __init__(self, settings: LedgerSettings) -> None:
        self.settings = settings
        self._current_until = 0.0

    @cached_property
    def ledger(self) -> Ledger:
        return open_ledger(self.settings.ledger)

    @cached_property
    def _celery(self) -> Celery:
        return make_celery(self.settings)

    @cached_property
    def _sender(self) -> Celery:
        # Nobody reads the results of imports through this app: the ledger has them.
        return make_celery(self.settings, results=False)

    @cached_property
    def _redis(self) -> Redis:
        return Redis.from_url(self.settings.redis, socket_timeout=2, socket_connect_timeout=2)

    def close(self) -> None:
        for name in ("ledger", "_redis", "_celery", "_sender"):
            if name in self.__dict__:
                self.__dict__.pop(name).close()

    # --- imports ----------------------------------------------------------------------------

    def submit_import(
        self, request: ImportRequest, *, key: str | None, requested_by: str | None
    ) -> Submission:
        self._ensure_current()
        record, created = self.ledger.imports.record(
            request, key=key, requested_by=requested_by or _user()
        )
        return Submission(record, created, queued=not created or self._queue(record))

    def get(self, import_id: str) -> ImportResult:
        [result] = self._with_live([self.ledger.imports.get(import_id)])
        return result

    def events(self, import_id: str, *, after: int) -> list[Event]:
        return self.ledger.imports.events(import_id, after=after)

    def list_imports(
        self,
        *,
        limit: int,
        before: str | None,
        clouds: Collection[str] | None = None,
        **filters: Unpack[ImportFilter],
    ) -> list[ImportRecord]:
        """`clouds` limits the list to those that an API key may see."""
        page = self.ledger.imports.page(clouds=clouds, limit=limit, before=before, **filters)
        return self._with_live(page)

    def named(self, names: Collection[str]) -> list[ImportRecord]:
        return self.ledger.imports.named(names)

    def with_keys_from(self, prefix: str) -> list[ImportRecord]:
        return self.ledger.imports.with_key_prefix(prefix)

    # --- decisions --------------------------------------------------------------------------

    def cancel(self, import_id: str, *, leave_image: bool, by: str | None = None) -> ImportResult:
        result = self.ledger.transitions.cancel(
            import_id, leave_image=leave_image, by=by or _user()
        )
        self._run_now(import_id)
        return result

    def retry(self, import_id: str, *, by: str | None = None) -> ImportResult:
        self._ensure_current()
        result = self.ledger.transitions.retry(import_id, by=by or _user())
        self._queue(result)
        return result

    def resolve(
        self, import_id: str, *, resubmit: bool, image_id: str | None, by: str | None = None
    ) -> ImportResult:
        self._ensure_current()
        by = by or _user()
        if resubmit:
            result = self.ledger.transitions.resolve(import_id, to=State.QUEUED, by=by)
            self._queue(result)
            return result
        if image_id is not None:
            result = self.ledger.transitions.resolve(
                import_id, to=State.VERIFYING, image_id=image_id, by=by
            )
        else:
            result = self.ledger.transitions.resolve(
                import_id, to=State.FAILED, error=GIVEN_UP, by=by
            )
        self._run_now(import_id)
        return result

    def adopt(
        self, job_id: str, *, name: str, cloud: str | None, by: str | None = None
    ) -> Submission:
        self._ensure_current()
        record, created = self.ledger.imports.adopt(
            job_id, name=name, cloud=cloud, by=by or _user()
        )
        return Submission(record, created, queued=not created or self._poll_now(record))

    def prune(self, *, older_than: timedelta, only_count: bool) -> int:
        return self.ledger.imports.prune(
            before=datetime.now(UTC) - older_than, only_count=only_count
        )

    # --- operations that a worker executes, because only workers hold credentials -----------

    def resume(self, cloud: str | None, *, timeout: float = RESUME_S) -> ResumeReport:
        return self._execute(RESUME, cloud, timeout, ResumeReport)

    def gc(
        self, cloud: str | None, *, delete: bool, unknown: bool, timeout: float = GC_S
    ) -> GcReport:
        return self._execute(GC, cloud, timeout, GcReport, delete=delete, unknown=unknown)

    def find_images(
        self, cloud: str | None, names: Collection[str], *, timeout: float = FIND_S
    ) -> list[FoundImage]:
        found = self._execute(FIND_IMAGES, cloud, timeout, FoundImages, names=[*names])
        return list(found.images)

    def _execute(
        self,
        task: str,
        cloud: str | None,
        timeout: float,
        report: type[Report],
        **arguments: bool | list[str],
    ) -> Report:
        with _queue_errors():
            sent = self._celery.send_task(task, [cloud], arguments, expires=timeout)
            try:
                raw = sent.get(timeout=timeout)
            except ResultTimeout as exc:
                raise WorkerUnavailable(f"no worker answered within {timeout:.0f} s") from exc
        reply = WorkerReply[report].model_validate(raw)  # type: ignore[valid-type]  # a type in a variable
        if reply.error is not None:
            raise WorkerRefused(reply.error)
        return report.model_validate(reply.report)

    def notify_object(self, bucket: str, key: str) -> None:
        with _queue_errors():
            self._sender.send_task(WATCH_OBJECT, [bucket, key])

    # --- API keys ---------------------------------------------------------------------------

    def create_key(
        self,
        name: str,
        *,
        scopes: Collection[Scope],
        clouds: Collection[str] | None,
        expires_at: datetime | None,
    ) -> tuple[ApiKey, str]:
        return self.ledger.api_keys.create(
            name, scopes=scopes, clouds=clouds, expires_at=expires_at
        )

    def keys(self) -> list[ApiKey]:
        return self.ledger.api_keys.all()

    def revoke_key(self, key_id: str) -> ApiKey:
        return self.ledger.api_keys.revoke(key_id)

    # --- webhooks ---------------------------------------------------------------------------

    def webhooks(self) -> list[Webhook]:
        return self.ledger.webhook_endpoints.all()

    def add_webhook(
        self,
        url: str,
        *,
        events: Collection[WebhookEvent] | None,
        clouds: Collection[str] | None,
    ) -> Webhook:
        return self.ledger.webhook_endpoints.add(url, events=events, clouds=clouds)

    def remove_webhook(self, webhook_id: str) -> None:
        self.ledger.webhook_endpoints.remove(webhook_id)

    def rotate_webhook(self, url: str) -> str:
        return self.ledger.webhook_endpoints.rotate(url)

    def deliveries(
        self,
        *,
        import_id: str | None,
        state: DeliveryState | None,
        limit: int,
        clouds: Collection[str] | None = None,
    ) -> list[Delivery]:
        """`clouds` limits the list to those that an API key may see."""
        return self.ledger.outbox.page(import_id=import_id, state=state, clouds=clouds, limit=limit)

    def resend(self, delivery_id: str) -> Delivery:
        return self.ledger.outbox.resend(delivery_id)

    # --- the installation -------------------------------------------------------------------

    def run_checks(self, clouds: Sequence[str], *, migrate: bool) -> Iterator[Check]:
        return checks.run_checks(
            self.settings,
            self._celery,
            lambda: self.ledger,
            self._current_ledger,
            clouds=clouds,
            migrate=migrate,
        )

    def check_ledger(self, *, migrate: bool) -> Check:
        return checks.check_ledger(self.settings.ledger, lambda: self.ledger, migrate=migrate)

    def adopt_ledger(self) -> AdoptedLedger:
        own = self.ledger.id
        with _queue_errors():
            previous = self._redis.getset(LEDGER_KEY, own)
        return AdoptedLedger(own, _text(previous))

    def ledger_is_current(self) -> bool:
        """False if the workers use another ledger; True also if that cannot be checked."""
        try:
            self._ensure_current()
        except LedgerNotCurrent:
            return False
        return True

    def _ensure_current(self) -> None:
        """Raise LedgerNotCurrent if no worker would see what is recorded in this ledger."""
        # A batch of a thousand requests needs one answer, not a thousand.
        if time.monotonic() < self._current_until:
            return
        # Without Redis, recording continues: a worker of this ledger finds the import later.
        with suppress(RedisError):
            current = self._current_ledger()
            if current not in (None, self.ledger.id):
                raise LedgerNotCurrent(self.ledger.id, current)
        self._current_until = time.monotonic() + CURRENT_FOR_S

    def _current_ledger(self) -> str | None:
        """The id that the workers published; None if no worker ran since Redis was empty."""
        return _text(self._redis.get(LEDGER_KEY))

    def queue_answers(self) -> bool:
        with suppress(RedisError, OSError):
            return bool(self._redis.ping())
        return False

    # --- queue and progress -----------------------------------------------------------------

    def _queue(self, record: ImportRecord) -> bool:
        return self._send(import_flow(self._sender, record), record)

    def _poll_now(self, record: ImportRecord) -> bool:
        return self._send(poll_signature(self._sender, ref_to(record)), record)

    def _send(self, signature: Signature, record: ImportRecord) -> bool:
        try:
            signature.apply_async()
        except (OperationalError, RedisError, OSError) as exc:
            logger.warning(
                "import recorded but not queued; the sweep of a worker will queue it",
                extra={"import_id": record.id, "reason": str(exc)},
            )
            return False
        return True

    def _run_now(self, import_id: str) -> None:
        """Make the next poll due now; without Redis it stays due when it was."""
        with suppress(RedisError):
            self._redis.zadd(DUE_KEY, {import_id: 0}, xx=True)

    def _with_live(self, records: Iterable[Record]) -> list[Record]:
        """The records with what Redis knows; without Redis it is unknown."""
        records = [*records]
        ids = [record.id for record in records if not record.state.terminal]
        with suppress(RedisError):
            live = read_live(self._redis, ids)
            return [
                live[record.id].added_to(record) if record.id in live else record
                for record in records
            ]
        return records


@contextmanager
def _queue_errors() -> Iterator[None]:
    try:
        yield
    # Celery raises RuntimeError if the result backend cannot be reached.
    except (OperationalError, RedisError, OSError, RuntimeError) as exc:
        raise WorkerUnavailable(f"the queue cannot be reached: {exc}") from exc


def _text(raw: bytes | str | None) -> str | None:
    return raw.decode() if isinstance(raw, bytes) else raw


def _user() -> str | None:
    with suppress(OSError, KeyError, ImportError):
        return getpass.getuser()
    return None
