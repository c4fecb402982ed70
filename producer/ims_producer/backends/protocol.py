"""The interface between `Client` and its backends: direct (ledger and broker) and HTTP (API).

tests/integration/test_backends.py runs the same tests against both.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol, TypedDict, Unpack

from ims_config.import_request import ImportRequest
from ims_config.records import Event, ImportRecord, ImportResult, Scope, State
from ims_config.webhooks import WebhookEvent
from ims_config.worker_reports import FoundImage, GcReport, ResumeReport
from ims_ledger.api_keys import ApiKey
from ims_ledger.outbox import Delivery, DeliveryState
from ims_ledger.webhook_endpoints import Webhook
from ims_producer.checks import Check


@dataclass(frozen=True, slots=True)
class Submission:
    """The import of a request, whether it is new, and whether it is in the queue.

    A recorded import that is not queued starts later: the workers' sweep finds it.
    """

    record: ImportRecord
    created: bool
    queued: bool


@dataclass(frozen=True, slots=True)
class AdoptedLedger:
    """The id of the ledger that is current now, and of the one that was (None: there was none)."""

    id: str
    previous: str | None


class ImportFilter(TypedDict, total=False):
    """The imports that a list contains: those that match every field that is set.

    `tag` is a key and its value. `created_after` is inclusive, `created_before` is not.
    """

    states: Collection[State]
    name: str | None
    cloud: str | None
    tag: tuple[str, str] | None
    created_after: datetime | None
    created_before: datetime | None


class Backend(Protocol):
    """Each method behaves as the method of the same name of `ims_producer.Client` says."""

    def submit_import(
        self, request: ImportRequest, *, key: str | None, requested_by: str | None
    ) -> Submission: ...
    def get(self, import_id: str) -> ImportResult: ...
    def events(self, import_id: str, *, after: int) -> list[Event]: ...
    def list_imports(
        self, *, limit: int, before: str | None, **filters: Unpack[ImportFilter]
    ) -> list[ImportRecord]: ...
    def named(self, names: Collection[str]) -> list[ImportRecord]: ...
    def with_keys_from(self, prefix: str) -> list[ImportRecord]: ...

    def cancel(self, import_id: str, *, leave_image: bool) -> ImportResult: ...
    def retry(self, import_id: str) -> ImportResult: ...
    def resolve(self, import_id: str, *, resubmit: bool, image_id: str | None) -> ImportResult: ...
    def adopt(self, job_id: str, *, name: str, cloud: str | None) -> Submission: ...
    def prune(self, *, older_than: timedelta, only_count: bool) -> int: ...

    def resume(self, cloud: str | None, *, timeout: float) -> ResumeReport: ...
    def gc(self, cloud: str | None, *, delete: bool, unknown: bool, timeout: float) -> GcReport: ...
    def find_images(
        self, cloud: str | None, names: Collection[str], *, timeout: float
    ) -> list[FoundImage]: ...
    def notify_object(self, bucket: str, key: str) -> None: ...

    def create_key(
        self,
        name: str,
        *,
        scopes: Collection[Scope],
        clouds: Collection[str] | None,
        expires_at: datetime | None,
    ) -> tuple[ApiKey, str]: ...
    def keys(self) -> list[ApiKey]: ...
    def revoke_key(self, key_id: str) -> ApiKey: ...

    def webhooks(self) -> list[Webhook]: ...
    def add_webhook(
        self,
        url: str,
        *,
        events: Collection[WebhookEvent] | None,
        clouds: Collection[str] | None,
    ) -> Webhook: ...
    def remove_webhook(self, webhook_id: str) -> None: ...
    def rotate_webhook(self, url: str) -> str: ...
    def deliveries(
        self, *, import_id: str | None, state: DeliveryState | None, limit: int
    ) -> list[Delivery]: ...
    def resend(self, delivery_id: str) -> Delivery: ...

    def run_checks(self, clouds: Sequence[str], *, migrate: bool) -> Iterator[Check]: ...
    def adopt_ledger(self) -> AdoptedLedger: ...
    def check_ledger(self, *, migrate: bool) -> Check: ...
    def close(self) -> None: ...
