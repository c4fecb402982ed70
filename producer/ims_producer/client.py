"""The Python client: one interface to imports, over the ledger and broker or over the HTTP API."""

import builtins
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Self, Unpack

from ims_config.import_request import ImportRequest, parse_request, parse_webhook_url
from ims_config.records import Event, ImportRecord, ImportResult, Scope
from ims_config.settings import ClientSettings
from ims_config.webhooks import WebhookEvent
from ims_config.worker_reports import FoundImage, GcReport, ResumeReport
from ims_ledger.api_keys import ApiKey
from ims_ledger.outbox import Delivery, DeliveryState
from ims_ledger.webhook_endpoints import Webhook
from ims_producer.backends.direct import FIND_S, GC_S, RESUME_S, DirectBackend
from ims_producer.backends.http import HttpBackend
from ims_producer.backends.protocol import AdoptedLedger, Backend, ImportFilter, Submission
from ims_producer.checks import Check
from ims_producer.waiting import OnProgress, StillTracked, wait_until_settled


class Client:
    """Request imports and read their state.

    With IMS_IMPORT_API_URL the client uses the HTTP API, and every method may raise KeyRefused and
    ApiUnavailable. Without it the client uses the ledger and the broker, and every method may raise
    LedgerUnavailable and LedgerOutdated; methods that give work to the workers also raise
    LedgerNotCurrent if the workers use another ledger. All other errors are the same.
    """

    def __init__(self, settings: ClientSettings | None = None) -> None:
        settings = settings or ClientSettings()
        self.backend: Backend = (
            HttpBackend(settings) if settings.api_url else DirectBackend(settings)
        )

    def close(self) -> None:
        self.backend.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- imports ----------------------------------------------------------------------------

    def submit(
        self,
        request: ImportRequest | Mapping[str, object],
        *,
        key: str | None = None,
        requested_by: str | None = None,
    ) -> str:
        """Record a request and queue it; returns the import id.

        The same `key` with an equal request returns the same import; with another request it
        raises KeyConflict. A request that breaks a rule raises InvalidRequest and is not recorded.
        If the broker is unreachable the import is recorded, and a worker's sweep queues it.
        """
        return self.submit_import(request, key=key, requested_by=requested_by).record.id

    def submit_import(
        self,
        request: ImportRequest | Mapping[str, object],
        *,
        key: str | None = None,
        requested_by: str | None = None,
    ) -> Submission:
        """As `submit`; returns the record, and whether it is new and queued."""
        parsed = request if isinstance(request, ImportRequest) else parse_request(request)
        return self.backend.submit_import(parsed, key=key, requested_by=requested_by)

    def get(self, import_id: str) -> ImportResult:
        """The import as it is now. Raises NotFound."""
        return self.backend.get(import_id)

    def events(self, import_id: str, *, after: int = 0) -> builtins.list[Event]:
        """The history of an import behind event number `after`, in order. Raises NotFound."""
        return self.backend.events(import_id, after=after)

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
        self, *, limit: int = 50, before: str | None = None, **filters: Unpack[ImportFilter]
    ) -> builtins.list[ImportRecord]:
        """Imports that match every filter, newest first; `before` is the last id of the page
        before."""
        return self.backend.list_imports(limit=limit, before=before, **filters)

    def named(self, names: Collection[str]) -> builtins.list[ImportRecord]:
        """Every import of an image with one of these names."""
        return self.backend.named(names)

    def with_keys_from(self, prefix: str) -> builtins.list[ImportRecord]:
        """Every import whose idempotency key starts with this prefix."""
        return self.backend.with_keys_from(prefix)

    # --- decisions --------------------------------------------------------------------------

    def cancel(self, import_id: str, *, leave_image: bool = False) -> ImportResult:
        """Cancel an import: at once if nothing was sent to IMS, otherwise when its job ends. The
        image is then deleted, or kept with `leave_image`. Raises NotFound, InvalidState (ended).
        """
        return self.backend.cancel(import_id, leave_image=leave_image)

    def retry(self, import_id: str) -> ImportResult:
        """Start a new attempt of a FAILED or CANCELED import, under the same id. Raises NotFound,
        InvalidState."""
        return self.backend.retry(import_id)

    def resolve(
        self, import_id: str, *, resubmit: bool = False, image_id: str | None = None
    ) -> ImportResult:
        """Decide how an UNCERTAIN import continues: send the request again, name its image, or
        (neither) give up. Raises NotFound, InvalidState (it is not UNCERTAIN)."""
        return self.backend.resolve(import_id, resubmit=resubmit, image_id=image_id)

    def adopt(self, job_id: str, *, name: str, cloud: str | None = None) -> Submission:
        """Track an IMS job that was started elsewhere; the same job returns the same import."""
        return self.backend.adopt(job_id, name=name, cloud=cloud)

    def prune(self, *, older_than: timedelta, only_count: bool = False) -> int:
        """Delete imports that ended longer ago than this from the ledger; returns how many."""
        return self.backend.prune(older_than=older_than, only_count=only_count)

    # --- operations that a worker executes: they raise WorkerRefused and WorkerUnavailable ---

    def resume(self, cloud: str | None = None, *, timeout: float = RESUME_S) -> ResumeReport:
        """Let the workers try the credentials of a cloud again, and run what they held up."""
        return self.backend.resume(cloud, timeout=timeout)

    def gc(
        self,
        cloud: str | None = None,
        *,
        delete: bool = False,
        unknown: bool = False,
        timeout: float = GC_S,
    ) -> GcReport:
        """Find images with our tag that no import needs and, with `delete`, delete them; those of
        imports unknown to this ledger only with `unknown`."""
        return self.backend.gc(cloud, delete=delete, unknown=unknown, timeout=timeout)

    def find_images(
        self, cloud: str | None, names: Collection[str], *, timeout: float = FIND_S
    ) -> builtins.list[FoundImage]:
        """The private images of a cloud that have one of these names."""
        return self.backend.find_images(cloud, names, timeout=timeout)

    def notify_object(self, bucket: str, key: str) -> None:
        """Let a worker check this object against the bucket rules now. Raises WorkerUnavailable;
        the next listing of the bucket then finds the object."""
        self.backend.notify_object(bucket, key)

    # --- API keys ---------------------------------------------------------------------------

    def create_key(
        self,
        name: str,
        *,
        scopes: Collection[Scope],
        clouds: Collection[str] | None = None,
        expires_at: datetime | None = None,
    ) -> tuple[ApiKey, str]:
        """A new API key and its text, which cannot be read again."""
        return self.backend.create_key(name, scopes=scopes, clouds=clouds, expires_at=expires_at)

    def keys(self) -> builtins.list[ApiKey]:
        return self.backend.keys()

    def revoke_key(self, key_id: str) -> ApiKey:
        """Revoke a key, effective immediately. Raises NotFound."""
        return self.backend.revoke_key(key_id)

    # --- webhooks ---------------------------------------------------------------------------

    def webhooks(self) -> builtins.list[Webhook]:
        """The webhooks that receive events of all matching imports."""
        return self.backend.webhooks()

    def add_webhook(
        self,
        url: str,
        *,
        events: Collection[WebhookEvent] | None = None,
        clouds: Collection[str] | None = None,
    ) -> Webhook:
        """Send these events of imports into these clouds (None: all) to a URL. Raises
        InvalidRequest."""
        return self.backend.add_webhook(parse_webhook_url(url), events=events, clouds=clouds)

    def remove_webhook(self, webhook_id: str) -> None:
        """Send no new events; queued deliveries are still sent. Raises NotFound."""
        self.backend.remove_webhook(webhook_id)

    def rotate_webhook(self, url: str) -> str:
        """Give the endpoint of a URL a new secret; the old one also signs for a day. Returns the
        endpoint."""
        return self.backend.rotate_webhook(parse_webhook_url(url))

    def deliveries(
        self,
        *,
        import_id: str | None = None,
        state: DeliveryState | None = None,
        limit: int = 50,
    ) -> builtins.list[Delivery]:
        """Webhook deliveries, newest first."""
        return self.backend.deliveries(import_id=import_id, state=state, limit=limit)

    def resend(self, delivery_id: str) -> Delivery:
        """Send a delivery again, with the same id. Raises NotFound."""
        return self.backend.resend(delivery_id)

    # --- the installation -------------------------------------------------------------------

    def run_checks(self, clouds: Sequence[str] = (), *, migrate: bool = False) -> Iterator[Check]:
        """Check everything an import needs, one part after the other; without `clouds`, the
        workers' default cloud. `migrate` works as in `check_ledger`."""
        return self.backend.run_checks(clouds, migrate=migrate)

    def adopt_ledger(self) -> AdoptedLedger:
        """Make the ledger of this client the one that the workers use; workers with another ledger
        stop. Raises WorkerUnavailable (Redis is unreachable) and, over HTTP, InvalidRequest."""
        return self.backend.adopt_ledger()

    def check_ledger(self, *, migrate: bool = False) -> Check:
        """Check the ledger only; over HTTP, whether the API can use its ledger. `migrate` updates
        its tables first and needs the direct backend: InvalidRequest over HTTP."""
        return self.backend.check_ledger(migrate=migrate)
