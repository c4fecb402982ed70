"""Transactional outbox for webhooks: a delivery is stored in the transaction of its event.

Each Celery message needs a claim, and only the newest claim of a delivery is valid. A receiver gets
the messages of one import in order: each waits until the previous one was delivered or failed.
"""

from collections import Counter
from collections.abc import Callable, Collection
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final, NamedTuple, cast
from uuid import NAMESPACE_URL, uuid5

from pydantic import AwareDatetime
from sqlalchemy import Connection, Engine, Table, func, insert, or_, select, update

from ims_config.records import Frozen, ImportResult
from ims_config.webhooks import WebhookEvent, cloud_event, endpoint_of
from ims_ledger.database import transaction
from ims_ledger.errors import NotFound
from ims_ledger.tables import DeliveryRow, ImportRow

deliveries = cast("Table", DeliveryRow.__table__)
imports = cast("Table", ImportRow.__table__)

# One slow receiver must neither hold all threads of the workers nor delay the others.
MOST_AT_ONCE: Final = 8
MOST_AT_ONE_ENDPOINT: Final = 2


class DeliveryState(StrEnum):
    """The state of a delivery."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"
    """No attempt is left; `resend` starts again."""


class Delivery(Frozen):
    """One message to one receiver; `id` is its `webhook-id`, the same at each attempt."""

    id: str
    import_id: str
    event: WebhookEvent
    url: str
    state: DeliveryState
    attempts: int
    created_at: AwareDatetime
    next_at: AwareDatetime | None = None
    ended_at: AwareDatetime | None = None
    http_status: int | None = None
    """The status of the last response, if there was one."""
    error: str | None = None


class Claim(NamedTuple):
    """The right of one Celery message to make a delivery."""

    id: str
    generation: int


class OutgoingMessage(NamedTuple):
    """A delivery to send."""

    claim: Claim
    event: str
    url: str
    endpoint: str
    body: str
    attempts: int
    """Attempts before this one."""


class Outbox:
    """Every method may raise LedgerUnavailable and LedgerOutdated."""

    def __init__(self, engine: Engine, now: Callable[[], datetime]) -> None:
        self._engine = engine
        self._now = now

    # --- sending ----------------------------------------------------------------------------

    def claim(self, *, lease: timedelta) -> list[Claim]:
        """Claim deliveries that are due, within the limits; an unused claim expires."""
        now = self._now()
        with transaction(self._engine, write=False) as db:
            if not db.execute(_due(now).limit(1)).first():
                return []
        with transaction(self._engine, write=True) as db:
            return [
                Claim(row["id"], self._claimed(db, row, now + lease)) for row in _in_turn(db, now)
            ]

    def _claimed(self, db: Connection, row: Any, until: datetime) -> int:
        generation = int(row["generation"]) + 1
        db.execute(
            update(deliveries)
            .where(deliveries.c.id == row["id"])
            .values(generation=generation, claimed_until=until)
        )
        return generation

    def begin(self, claim: Claim, *, lease: timedelta) -> OutgoingMessage | None:
        """The delivery of this claim; None for a late or duplicate message."""
        with transaction(self._engine, write=True) as db:
            newer = {"generation": claim.generation + 1, "claimed_until": self._now() + lease}
            if not db.execute(update(deliveries).where(*_held(claim)).values(newer)).rowcount:
                return None
            query = select(deliveries).where(deliveries.c.id == claim.id)
            row = db.execute(query).mappings().one()
        return OutgoingMessage(
            Claim(claim.id, claim.generation + 1),
            row["event"], row["url"], row["endpoint"], row["body"], row["attempts"],
        )  # fmt: skip

    def delivered(self, letter: OutgoingMessage, http_status: int) -> None:
        self._end(letter, DeliveryState.DELIVERED, http_status, None)

    def given_up(self, letter: OutgoingMessage, http_status: int | None, error: str) -> None:
        self._end(letter, DeliveryState.FAILED, http_status, error)

    def _end(
        self,
        letter: OutgoingMessage,
        state: DeliveryState,
        http_status: int | None,
        error: str | None,
    ) -> None:
        ended = {"state": state.value, "next_at": None, "ended_at": self._now()}
        self._tried(letter, ended | {"http_status": http_status, "error": error})

    def again(
        self, letter: OutgoingMessage, http_status: int | None, error: str, *, after: timedelta
    ) -> None:
        """The receiver did not accept it: try again later."""
        later = {"next_at": self._now() + after, "http_status": http_status, "error": error}
        self._tried(letter, later)

    def _tried(self, letter: OutgoingMessage, columns: dict[str, Any]) -> None:
        columns |= {"attempts": letter.attempts + 1, "claimed_until": None}
        with transaction(self._engine, write=True) as db:
            # A newer claim records its own outcome.
            db.execute(update(deliveries).where(*_held(letter.claim)).values(columns))

    # --- reading and resending --------------------------------------------------------------

    def get(self, delivery_id: str) -> Delivery:
        """Raises NotFound."""
        query = select(deliveries).where(deliveries.c.id == delivery_id)
        with transaction(self._engine, write=False) as db:
            row = db.execute(query).mappings().first()
        if row is None:
            raise NotFound("delivery", delivery_id)
        return Delivery.model_validate(dict(row))

    def page(
        self,
        *,
        import_id: str | None = None,
        state: DeliveryState | None = None,
        clouds: Collection[str] | None = None,
        limit: int = 50,
    ) -> list[Delivery]:
        """Deliveries, newest first; with `clouds`, of imports to these only."""
        query = select(deliveries).order_by(deliveries.c.number.desc()).limit(limit)
        if import_id is not None:
            query = query.where(deliveries.c.import_id == import_id)
        if state is not None:
            query = query.where(deliveries.c.state == state.value)
        if clouds is not None:
            query = query.join(imports, imports.c.id == deliveries.c.import_id)
            query = query.where(imports.c.cloud.in_(list(clouds)))
        with transaction(self._engine, write=False) as db:
            return [Delivery.model_validate(dict(row)) for row in db.execute(query).mappings()]

    def resend(self, delivery_id: str) -> Delivery:
        """Send a delivered or failed delivery again. Raises NotFound."""
        fresh = {
            "state": DeliveryState.PENDING.value, "attempts": 0, "next_at": self._now(),
            "ended_at": None, "claimed_until": None,
        }  # fmt: skip
        mine = deliveries.c.id == delivery_id
        with transaction(self._engine, write=True) as db:
            # Invalidates messages that are already queued.
            newer = {"generation": deliveries.c.generation + 1}
            if not db.execute(update(deliveries).where(mine).values(fresh | newer)).rowcount:
                raise NotFound("delivery", delivery_id)
        return self.get(delivery_id)


def enqueue(
    db: Connection,
    record: ImportResult,
    event: WebhookEvent,
    urls: Collection[str],
    *,
    occasion: str,
    at: datetime,
) -> None:
    """Store a delivery for each URL, in the transaction of the event.

    `occasion` identifies the event within the import: each occasion is delivered once per URL.
    """
    for url in urls:
        delivery_id = f"msg_{uuid5(NAMESPACE_URL, f'{record.id} {occasion} {url}').hex}"
        known = select(deliveries.c.number).where(deliveries.c.id == delivery_id)
        if db.execute(known).first():
            continue
        db.execute(
            insert(deliveries).values(
                id=delivery_id,
                import_id=record.id,
                event=event.value,
                url=url,
                endpoint=endpoint_of(url),
                body=cloud_event(delivery_id, event, record, at),
                state=DeliveryState.PENDING.value,
                generation=0,
                attempts=0,
                created_at=at,
                next_at=at,
            )
        )


def _held(claim: Claim) -> tuple[Any, ...]:
    return (
        deliveries.c.id == claim.id,
        deliveries.c.state == DeliveryState.PENDING.value,
        deliveries.c.generation == claim.generation,
    )


def _due(now: datetime) -> Any:
    d = deliveries.c
    free = or_(d.claimed_until.is_(None), d.claimed_until <= now)
    return select(d.id).where(d.state == DeliveryState.PENDING.value, d.next_at <= now, free)


def _in_turn(db: Connection, now: datetime) -> list[Any]:
    """The first due delivery of each import and receiver, within the limits."""
    d, before = deliveries.c, deliveries.alias("before")
    pending = DeliveryState.PENDING.value
    under_way = select(d.endpoint).where(d.state == pending, d.claimed_until > now)
    busy = Counter(db.execute(under_way).scalars())
    not_first = (
        select(before.c.number)
        .where(
            before.c.import_id == d.import_id,
            before.c.url == d.url,
            before.c.state == pending,
            before.c.number < d.number,
        )
        .exists()
    )
    place = func.row_number().over(partition_by=d.endpoint, order_by=(d.next_at, d.number))
    due = (
        _due(now)
        .add_columns(d.number, d.next_at, d.endpoint, d.generation, place.label("place"))
        .where(~not_first)
        .subquery()
    )
    query = (
        select(due).where(due.c.place <= MOST_AT_ONE_ENDPOINT).order_by(due.c.next_at, due.c.number)
    )
    chosen = []
    for row in db.execute(query).mappings():
        if busy.total() >= MOST_AT_ONCE:
            break
        if busy[row["endpoint"]] < MOST_AT_ONE_ENDPOINT:
            busy[row["endpoint"]] += 1
            chosen.append(row)
    return chosen
