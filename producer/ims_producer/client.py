"""The Python client: records a request in the ledger, queues it, and reads how it stands."""

import builtins
import getpass
import json
import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar, cast

from celery import Celery
from celery.canvas import Signature
from kombu.exceptions import OperationalError
from redis import Redis, RedisError

from ims_config.celery_app import make_celery
from ims_config.import_request import ImportRequest, parse_request, parse_webhook_url
from ims_config.names import DUE_KEY, FIND_IMAGES, GC, LIVE_KEY, RESUME, WATCH_OBJECT
from ims_config.records import (
    ErrorClass,
    Event,
    Failure,
    ImportRecord,
    ImportResult,
    Progress,
    Scope,
    State,
)
from ims_config.settings import ClientSettings, LedgerSettings
from ims_config.signatures import import_flow, poll_signature, ref_to
from ims_config.webhooks import WebhookEvent
from ims_config.worker_reports import FoundImages, GcReport, ResumeReport, WorkerReply
from ims_ledger import Ledger, open_ledger
from ims_ledger.api_keys import ApiKey
from ims_ledger.outbox import Delivery, DeliveryState
from ims_ledger.webhook_endpoints import Webhook
from ims_producer.waiting import OnProgress, StillTracked, wait_until_settled

if TYPE_CHECKING:
    from ims_producer.checks import Check

logger = logging.getLogger(__name__)

R = TypeVar("R", bound=ImportRecord)
Report = TypeVar("Report")

GIVEN_UP: Final = Failure(
    code="RESOLVED.failed",
    message="its answer was lost, no image of it was found, and a person gave it up",
    error_class=ErrorClass.PERMANENT,
    hint="ims-import retry begins a new attempt.",
)


class WorkerRefused(Exception):
    """A worker was asked and its cloud said no."""

    def __init__(self, problem: str, hint: str) -> None:
        super().__init__(problem)
        self.problem, self.hint = problem, hint


@dataclass(frozen=True, slots=True)
class Submission:
    """What came of a request: its import, whether it is new, and whether it is queued already.

    One that is not queued is recorded, and queued by a worker's sweep.
    """

    record: ImportRecord
    created: bool
    queued: bool


class Client:
    """Ask for imports and read how they stand.

    Needs the ledger and, to be quick, the broker. Every method may raise
    ims_ledger.LedgerUnavailable or LedgerOutdated. With IMS_IMPORT_API_URL it needs neither: it is
    then an ims_producer.remote.RemoteClient, which asks the HTTP API.
    """

    def __new__(cls, settings: LedgerSettings | None = None) -> Self:
        settings = settings or ClientSettings()
        if cls is Client and isinstance(settings, ClientSettings) and settings.api_url:
            from ims_producer.remote import RemoteClient  # noqa: PLC0415  # knows this module

            return super().__new__(cast("type[Self]", RemoteClient))
        return super().__new__(cls)

    def __init__(self, settings: LedgerSettings | None = None) -> None:
        self.settings = settings or ClientSettings()

    @cached_property
    def ledger(self) -> Ledger:
        return open_ledger(self.settings.ledger)

    @cached_property
    def celery(self) -> Celery:
        return make_celery(self.settings)

    @cached_property
    def _sender(self) -> Celery:
        # Who waits for an import asks the ledger.
        return make_celery(self.settings, results=False)

    @cached_property
    def _redis(self) -> Redis:
        return Redis.from_url(self.settings.redis, socket_timeout=2, socket_connect_timeout=2)

    def submit(
        self,
        request: ImportRequest | Mapping[str, Any],
        *,
        key: str | None = None,
        requested_by: str | None = None,
    ) -> str:
        """Record a request and queue it; returns the import's id.

        The same `key` with an equal request gives the same import, with another request raises
        ims_ledger.KeyConflict. A broken rule raises InvalidRequest and nothing is recorded. With
        the broker gone the import is recorded all the same: a worker's sweep finds it.
        """
        return self.submit_import(request, key=key, requested_by=requested_by).record.id

    def submit_import(
        self,
        request: ImportRequest | Mapping[str, Any],
        *,
        key: str | None = None,
        requested_by: str | None = None,
    ) -> Submission:
        """The same as `submit`, telling more of what came of it."""
        wanted = request if isinstance(request, ImportRequest) else parse_request(request)
        record, created = self.ledger.imports.record(
            wanted, key=key, requested_by=requested_by or _user()
        )
        return Submission(record, created, queued=not created or self.queue(record))

    def queue(self, record: ImportRecord) -> bool:
        """Send a recorded import to the workers; False when the broker cannot be reached."""
        return self._send(import_flow(self._sender, record), record)

    def _send(self, signature: Signature, record: ImportRecord) -> bool:
        try:
            signature.apply_async()
        except (OperationalError, RedisError, OSError) as exc:
            logger.warning(
                "recorded, but the queue cannot be reached; a worker will find it",
                extra={"import_id": record.id, "why": str(exc)},
            )
            return False
        return True

    def get(self, import_id: str) -> ImportResult:
        """The import as it stands. Raises ims_ledger.NotFound."""
        [result] = self._with_progress([self.ledger.imports.get(import_id)])
        return result

    def wait(self, import_id: str, timeout: float | None = None) -> ImportResult:
        """Wait until the import has settled; after `timeout` seconds raise StillTracked.

        A settled import has ended, or a person must act: see `settled` of the record.
        """
        [result] = self.wait_all([import_id], timeout=timeout)
        if not result.settled:
            raise StillTracked(result)
        return result

    def wait_all(
        self,
        import_ids: Sequence[str],
        *,
        timeout: float | None = None,
        on_progress: OnProgress = lambda _: None,
    ) -> builtins.list[ImportResult]:
        """Wait until all imports have settled or `timeout` seconds have passed; return them.

        `on_progress` receives all of them after each read.
        """
        return wait_until_settled(self.get, import_ids, timeout=timeout, on_progress=on_progress)

    def list(
        self,
        *,
        states: Collection[State] = (),
        name: str | None = None,
        cloud: str | None = None,
        limit: int = 50,
        before: str | None = None,
        **narrower: Any,
    ) -> builtins.list[ImportRecord]:
        """Imports, newest first; `before` is the id of the last one of the page before.

        `narrower`: clouds, tag, created_after, created_before, as in Imports.page.
        """
        page = self.ledger.imports.page(
            states=states, name=name, cloud=cloud, limit=limit, before=before, **narrower
        )
        return self._with_progress(page)

    def named(self, names: Collection[str]) -> builtins.list[ImportRecord]:
        """Every import of an image with one of these names."""
        return self.ledger.imports.named(names)

    def with_keys_from(self, prefix: str) -> builtins.list[ImportRecord]:
        """Every import whose key begins so."""
        return self.ledger.imports.with_key_prefix(prefix)

    # --- deciding ---------------------------------------------------------------------------

    def cancel(
        self, import_id: str, *, leave_image: bool = False, by: str | None = None
    ) -> ImportResult:
        """Cancel an import. Before IMS was asked it is CANCELED at once; after that its job is
        followed and the image deleted when it is done, or left with `leave_image`.

        Raises ims_ledger.NotFound, InvalidState (it has ended).
        """
        result = self.ledger.transitions.cancel(
            import_id, leave_image=leave_image, by=by or _user()
        )
        self._hasten(import_id)
        return result

    def retry(self, import_id: str, *, by: str | None = None) -> ImportResult:
        """A new attempt, under the same id, of an import that FAILED or was CANCELED."""
        result = self.ledger.transitions.retry(import_id, by=by or _user())
        self.queue(result)
        return result

    def resolve(
        self,
        import_id: str,
        *,
        resubmit: bool = False,
        image_id: str | None = None,
        by: str | None = None,
    ) -> ImportResult:
        """Decide about an UNCERTAIN import: ask IMS again, name its image, or (neither) give up.

        Raises ims_ledger.NotFound, InvalidState (it is not UNCERTAIN).
        """
        by = by or _user()
        if resubmit:
            result = self.ledger.transitions.resolve(import_id, to=State.QUEUED, by=by)
            self.queue(result)
            return result
        if image_id is not None:
            result = self.ledger.transitions.resolve(
                import_id, to=State.VERIFYING, image_id=image_id, by=by
            )
        else:
            result = self.ledger.transitions.resolve(
                import_id, to=State.FAILED, error=GIVEN_UP, by=by
            )
        self._hasten(import_id)
        return result

    def adopt(
        self, job_id: str, *, name: str, cloud: str | None = None, by: str | None = None
    ) -> Submission:
        """Follow a job that somebody else started; the same job gives the same import."""
        record, created = self.ledger.imports.adopt(
            job_id, name=name, cloud=cloud, by=by or _user()
        )
        return Submission(record, created, queued=not created or self._look_now(record))

    def resume(self, cloud: str | None = None, *, timeout: float = 30) -> int:
        """Let the workers try the credentials of a cloud again now; returns how many imports
        waited for that. Raises WorkerRefused; celery's TimeoutError when no worker answers."""
        return self._ask_worker(RESUME, WorkerReply[ResumeReport], cloud, timeout).waited

    def gc(
        self,
        cloud: str | None = None,
        *,
        delete: bool = False,
        unknown: bool = False,
        timeout: float = 300,
    ) -> dict[str, Any]:
        """Images of ours that no import needs, as a worker finds (and with `delete` deletes) them:
        `{project, orphans, missing, deleted, not_deleted}`. Raises as `resume` does."""
        report = self._ask_worker(
            GC, WorkerReply[GcReport], cloud, timeout, delete=delete, unknown=unknown
        )
        return report.model_dump(mode="json")

    def find_images(
        self, cloud: str | None, names: Collection[str], *, timeout: float = 60
    ) -> builtins.list[dict[str, Any]]:
        """The private images of a cloud with one of these names, as a worker sees them:
        `{id, name, status, import_id}` each. Raises as `resume` does."""
        found = self._ask_worker(
            FIND_IMAGES, WorkerReply[FoundImages], cloud, timeout, names=[*names]
        )
        return [image.model_dump(mode="json") for image in found.images]

    def _ask_worker(
        self,
        task: str,
        reply_type: type[WorkerReply[Report]],
        cloud: str | None,
        timeout: float,
        **options: object,
    ) -> Report:
        """Request a report from a worker, because only workers hold credentials."""
        sent = self.celery.send_task(task, [cloud], options, expires=timeout)
        reply = reply_type.model_validate(sent.get(timeout=timeout))
        if reply.error is not None:
            raise WorkerRefused(str(reply.error), reply.error.failure.hint)
        if reply.report is None:
            raise WorkerRefused(f"{task}: the reply of the worker is empty", "Upgrade the worker.")
        return reply.report

    def prune(self, *, older_than: timedelta, only_count: bool = False) -> int:
        """Forget imports that ended that long ago; returns how many."""
        return self.ledger.imports.prune(
            before=datetime.now(UTC) - older_than, only_count=only_count
        )

    def _look_now(self, record: ImportRecord) -> bool:
        return self._send(poll_signature(self._sender, record.id, (ref_to(record),)), record)

    # --- keys of the HTTP API ---------------------------------------------------------------

    def create_key(
        self,
        name: str,
        *,
        scopes: Collection[Scope],
        clouds: Collection[str] | None = None,
        expires_at: datetime | None = None,
    ) -> tuple[ApiKey, str]:
        """A new key and its text, which cannot be read again."""
        return self.ledger.api_keys.create(
            name, scopes=scopes, clouds=clouds, expires_at=expires_at
        )

    def keys(self) -> builtins.list[ApiKey]:
        return self.ledger.api_keys.all()

    def revoke_key(self, key_id: str) -> ApiKey:
        """From now on it opens nothing. Raises ims_ledger.NotFound."""
        return self.ledger.api_keys.revoke(key_id)

    # --- webhooks ---------------------------------------------------------------------------

    def webhooks(self) -> builtins.list[Webhook]:
        """Who is told of all imports that match."""
        return self.ledger.webhook_endpoints.all()

    def add_webhook(
        self,
        url: str,
        *,
        events: Collection[WebhookEvent] | None = None,
        clouds: Collection[str] | None = None,
    ) -> Webhook:
        """From now on this address is told, of these events and clouds (None for all). Raises
        InvalidRequest for an address that cannot be."""
        checked = parse_webhook_url(url)
        return self.ledger.webhook_endpoints.add(checked, events=events, clouds=clouds)

    def remove_webhook(self, webhook_id: str) -> None:
        """It is told nothing new. Raises ims_ledger.NotFound."""
        self.ledger.webhook_endpoints.remove(webhook_id)

    def rotate_webhook(self, url: str) -> str:
        """Give the endpoint of an address a new secret; the old one signs as well for a day.
        Returns the endpoint."""
        return self.ledger.webhook_endpoints.rotate(parse_webhook_url(url))

    def deliveries(
        self,
        *,
        import_id: str | None = None,
        state: DeliveryState | None = None,
        limit: int = 50,
        **narrower: Any,
    ) -> builtins.list[Delivery]:
        """What receivers were told or are to be told, newest first; `narrower`: clouds."""
        return self.ledger.outbox.page(import_id=import_id, state=state, limit=limit, **narrower)

    def resend(self, delivery_id: str) -> Delivery:
        """Send it once more, with the same id. Raises ims_ledger.NotFound."""
        return self.ledger.outbox.resend(delivery_id)

    # --- buckets ----------------------------------------------------------------------------

    def look_at_object(self, bucket: str, key: str) -> None:
        """Let a worker look at an object now, if a watch rule means it. Raises kombu's
        OperationalError without a broker: the next listing finds it."""
        self._sender.send_task(WATCH_OBJECT, [bucket, key])

    # --- the installation -------------------------------------------------------------------

    def run_checks(self, clouds: Sequence[str | None], *, migrate: bool) -> "Iterator[Check]":
        """Check everything an import needs, one part after the other."""
        from ims_producer.checks import run_checks  # noqa: PLC0415  # knows this module

        return run_checks(self, clouds=clouds, migrate=migrate)

    def ping(self) -> None:
        """Raises redis' RedisError when Redis does not answer."""
        self._redis.ping()

    def _hasten(self, import_id: str) -> None:
        """Have it looked at now instead of when it is due; without Redis, then."""
        with suppress(RedisError):
            self._redis.zadd(DUE_KEY, {import_id: 0}, xx=True)

    def events(self, import_id: str, *, after: int = 0) -> builtins.list[Event]:
        """What happened to an import, in order, from behind event number `after`."""
        return self.ledger.imports.events(import_id, after=after)

    def close(self) -> None:
        # What was not used was never opened.
        for name in ("ledger", "_redis", "celery", "_sender"):
            if name in self.__dict__:
                self.__dict__.pop(name).close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _with_progress(self, records: Iterable[R]) -> builtins.list[R]:
        """The records with what changes faster than the ledger; without it if Redis is gone."""
        found = [*records]
        ids = [record.id for record in found if not record.state.terminal]
        lives: dict[str, Any] = {}
        if ids:
            with suppress(RedisError):
                lives = dict(zip(ids, self._redis.hmget(LIVE_KEY, ids), strict=True))
        return [_lively(record, lives.get(record.id)) for record in found]


def _lively(record: R, live: bytes | None) -> R:
    if live is None:
        return record
    given = json.loads(live)
    return record.model_copy(
        update={"progress": Progress.model_validate(given), "polls": given.get("polls", 0)}
    )


def _user() -> str | None:
    with suppress(OSError, KeyError, ImportError):
        return getpass.getuser()
    return None
