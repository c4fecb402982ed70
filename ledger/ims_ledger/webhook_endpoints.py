"""Webhooks that receive the events of all matching imports, and their secret generations."""

import secrets
from collections.abc import Callable, Collection
from datetime import datetime, timedelta
from typing import Any, Final, cast

from pydantic import AwareDatetime
from sqlalchemy import Connection, Engine, Table, delete, insert, select, update

from ims_config.records import Frozen
from ims_config.webhooks import WebhookEvent, endpoint_of
from ims_ledger.database import transaction
from ims_ledger.errors import NotFound
from ims_ledger.tables import WebhookRow, WebhookSecretRow

webhooks = cast("Table", WebhookRow.__table__)
generations = cast("Table", WebhookSecretRow.__table__)

# How long the previous secret also signs after a rotation.
OVERLAP: Final = timedelta(hours=24)
_ID_BYTES: Final = 6


class Webhook(Frozen):
    """A URL that receives these events of imports into these clouds; None means all."""

    id: str
    url: str
    events: tuple[WebhookEvent, ...] | None = None
    clouds: tuple[str, ...] | None = None
    created_at: AwareDatetime

    def wants(self, event: WebhookEvent, cloud: str | None) -> bool:
        return (self.events is None or event in self.events) and (
            self.clouds is None or cloud in self.clouds
        )


class WebhookEndpoints:
    """Every method may raise LedgerUnavailable and LedgerOutdated."""

    def __init__(self, engine: Engine, now: Callable[[], datetime]) -> None:
        self._engine = engine
        self._now = now

    def add(
        self,
        url: str,
        *,
        events: Collection[WebhookEvent] | None = None,
        clouds: Collection[str] | None = None,
    ) -> Webhook:
        """Register a URL, effective immediately."""
        row = {
            "id": secrets.token_hex(_ID_BYTES),
            "url": url,
            "events": None if events is None else sorted(events),
            "clouds": None if clouds is None else sorted(clouds),
            "created_at": self._now(),
        }
        with transaction(self._engine, write=True) as db:
            db.execute(insert(webhooks).values(row))
        return Webhook.model_validate(row)

    def all(self) -> list[Webhook]:
        with transaction(self._engine, write=False) as db:
            return registered(db)

    def remove(self, webhook_id: str) -> None:
        """Send no new events; queued deliveries are still sent. Raises NotFound."""
        with transaction(self._engine, write=True) as db:
            if not db.execute(delete(webhooks).where(webhooks.c.id == webhook_id)).rowcount:
                raise NotFound("webhook", webhook_id)

    def rotate(self, url: str) -> str:
        """Give the endpoint of a URL a new secret; the previous one also signs for OVERLAP.
        Returns the endpoint."""
        endpoint = endpoint_of(url)
        mine = generations.c.endpoint == endpoint
        now = self._now()
        with transaction(self._engine, write=True) as db:
            known = db.execute(select(generations.c.generation).where(mine)).scalar()
            if known is None:
                first = {"endpoint": endpoint, "generation": 2, "rotated_at": now}
                db.execute(insert(generations).values(first))
            else:
                newer = {"generation": known + 1, "rotated_at": now}
                db.execute(update(generations).where(mine).values(newer))
        return endpoint

    def generations(self, endpoint: str) -> list[int]:
        """The generations of an endpoint's secret that sign now, the current one first."""
        query = select(generations).where(generations.c.endpoint == endpoint)
        with transaction(self._engine, write=False) as db:
            row: Any = db.execute(query).mappings().first()
        if row is None:
            return [1]
        current = int(row["generation"])
        young = self._now() - row["rotated_at"] < OVERLAP
        return [current, current - 1] if young else [current]


def registered(db: Connection) -> list[Webhook]:
    rows = db.execute(select(webhooks).order_by(webhooks.c.created_at, webhooks.c.id)).mappings()
    return [Webhook.model_validate(dict(row)) for row in rows]
