"""The imports of a ledger: record requests, adopt jobs, read, and delete finished ones."""

from collections.abc import Callable, Collection
from datetime import datetime
from typing import Any, Final, Unpack
from uuid import uuid4

from sqlalchemy import ColumnElement, Connection, Engine, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from ims_config.import_request import REQUEST_VERSION, ImportRequest, composed, parse_adoption
from ims_config.records import (
    TERMINAL,
    Event,
    ImportRecord,
    ImportResult,
    Origin,
    State,
    WaitsFor,
)
from ims_ledger.changes import Changes
from ims_ledger.database import transaction
from ims_ledger.errors import KeyConflict
from ims_ledger.events import append
from ims_ledger.outbox import DeliveryState, deliveries
from ims_ledger.rows import NOT_REQUESTED, events, imports, read, record_of

# Databases limit the number of values in one statement.
_BATCH: Final = 500


class Imports:
    """Every method may raise LedgerUnavailable and LedgerOutdated."""

    def __init__(self, engine: Engine, now: Callable[[], datetime]) -> None:
        self._engine = engine
        self._now = now

    # --- adding and deleting ----------------------------------------------------------------

    def record(
        self,
        request: ImportRequest,
        *,
        import_id: str | None = None,
        key: str | None = None,
        requested_by: str | None = None,
    ) -> tuple[ImportRecord, bool]:
        """Record a request. Returns the record and whether it is new.

        The same id, or the same key with an equal request, returns the existing import; the same
        key with another request raises KeyConflict.
        """
        row = self._new_row(
            id=import_id or str(uuid4()),
            key=key,
            state=State.QUEUED,
            requested_by=requested_by,
            cloud=request.cloud,
            kind=request.kind.value,
            name=request.name,
            image_url=request.image_url,
            request=request.as_message(),
            priority=request.priority.rank,
        )
        try:
            with transaction(self._engine, write=True) as db:
                if existing := self._existing(db, row["id"], key):
                    return _same(existing, request), False
                db.execute(insert(imports).values(row))
                record = record_of(row)
                self._first_event(db, record, State.QUEUED)
        except IntegrityError:
            # PostgreSQL: another process recorded it after our SELECT.
            with transaction(self._engine, write=False) as db:
                existing = self._existing(db, row["id"], key)
            if existing is None:
                raise
            return _same(existing, request), False
        return record, True

    def adopt(
        self, job_id: str, *, name: str, cloud: str | None, by: str | None
    ) -> tuple[ImportRecord, bool]:
        """Record an import whose job was started elsewhere; the same job returns the same import.

        Raises InvalidRequest for an invalid name or cloud.
        """
        job = parse_adoption(name, cloud)
        row = self._new_row(
            id=str(uuid4()),
            key=f"job:{job_id}",
            state=State.RUNNING,
            requested_by=by,
            cloud=job.cloud,
            name=job.name,
            job_id=job_id,
            submitted_at=self._now(),
            origin=Origin.ADOPTED.value,
            **NOT_REQUESTED,
        )
        with transaction(self._engine, write=True) as db:
            if existing := self._existing(db, row["id"], row["key"]):
                return existing, False
            db.execute(insert(imports).values(row))
            record = record_of(row)
            reason = f"job {job_id} adopted"
            self._first_event(db, record, State.RUNNING, reason=reason, job_id=job_id)
        return record, True

    def _new_row(self, *, state: State, **columns: object) -> dict[str, Any]:
        now = self._now()
        return {
            "state": state.value,
            "origin": Origin.REQUEST.value,
            "request_version": REQUEST_VERSION,
            "created_at": now,
            "updated_at": now,
            "overdue": False,
            "attempts": 0,
            "polls": 0,
            "version": 0,
        } | columns

    def _existing(self, db: Connection, import_id: str, key: str | None) -> ImportRecord | None:
        by_id = imports.c.id == import_id
        query = select(imports).where(by_id if key is None else (by_id | (imports.c.key == key)))
        row = db.execute(query).mappings().first()
        return None if row is None else record_of(row)

    def _first_event(
        self,
        db: Connection,
        record: ImportRecord,
        to: State,
        *,
        reason: str | None = None,
        **changes: Unpack[Changes],
    ) -> None:
        append(db, record, "transition", at=self._now(), to=to, reason=reason, changes=changes)

    def prune(self, *, before: datetime, only_count: bool = False) -> int:
        """Delete imports that ended, and were reported, before this time; returns how many.

        Imports with a pending webhook delivery are kept.
        """
        undelivered = select(deliveries.c.import_id).where(
            deliveries.c.state == DeliveryState.PENDING.value
        )
        old = (
            imports.c.id.not_in(undelivered),
            imports.c.state.in_([state.value for state in TERMINAL]),
            imports.c.finished_at < before,
            imports.c.reported_at.is_not(None),
        )
        with transaction(self._engine, write=not only_count) as db:
            count = select(func.count()).select_from(imports).where(*old)
            number = int(db.execute(count).scalar_one())
            if number and not only_count:
                ids = select(imports.c.id).where(*old)
                for table in (deliveries, events):
                    db.execute(delete(table).where(table.c.import_id.in_(ids)))
                db.execute(delete(imports).where(*old))
        return number

    # --- reading ----------------------------------------------------------------------------

    def get(self, import_id: str) -> ImportResult:
        """The current record. Raises NotFound."""
        with transaction(self._engine, write=False) as db:
            return read(db, import_id)

    def page(
        self,
        *,
        states: Collection[State] = (),
        name: str | None = None,
        cloud: str | None = None,
        clouds: Collection[str] | None = None,
        tag: tuple[str, str] | None = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        limit: int = 50,
        before: str | None = None,
    ) -> list[ImportRecord]:
        """Imports, newest first; `before` is the id of the last import of the previous page.

        `clouds` restricts the page to these clouds; `tag` is a key and its value. `created_after`
        is inclusive, `created_before` exclusive.
        """
        query = select(imports).order_by(imports.c.created_at.desc(), imports.c.id.desc())
        if states:
            query = query.where(imports.c.state.in_([state.value for state in states]))
        if name is not None:
            query = query.where(imports.c.name == composed(name))
        if cloud is not None:
            query = query.where(imports.c.cloud == cloud)
        if clouds is not None:
            query = query.where(imports.c.cloud.in_(list(clouds)))
        if tag is not None:
            query = query.where(imports.c.request["tags"][tag[0]].as_string() == tag[1])
        if created_after is not None:
            query = query.where(imports.c.created_at >= created_after)
        if created_before is not None:
            query = query.where(imports.c.created_at < created_before)
        with transaction(self._engine, write=False) as db:
            if before is not None:
                last = read(db, before)
                at = imports.c.created_at
                query = query.where(
                    (at < last.created_at) | ((at == last.created_at) & (imports.c.id < last.id))
                )
            return [record_of(row) for row in db.execute(query.limit(limit)).mappings()]

    def named(self, names: Collection[str]) -> list[ImportRecord]:
        """Every import with one of these names."""
        unique = sorted(set(map(composed, names)))
        with transaction(self._engine, write=False) as db:
            return [
                record_of(row)
                for start in range(0, len(unique), _BATCH)
                for row in db.execute(
                    select(imports).where(imports.c.name.in_(unique[start : start + _BATCH]))
                ).mappings()
            ]

    def with_key_prefix(self, prefix: str) -> list[ImportRecord]:
        """Every import whose key starts with this prefix."""
        return self._where(imports.c.key.startswith(prefix, autoescape=True))

    def of_project(self, project: str) -> list[ImportRecord]:
        """Every import that was admitted or queued in this project."""
        return self._where(imports.c.project == project)

    def _where(self, condition: ColumnElement[bool]) -> list[ImportRecord]:
        with transaction(self._engine, write=False) as db:
            rows = db.execute(select(imports).where(condition)).mappings()
            return [record_of(row) for row in rows]

    def counts(self) -> dict[State, int]:
        """The number of imports in each state; states without imports are left out."""
        query = select(imports.c.state, func.count()).group_by(imports.c.state)
        with transaction(self._engine, write=False) as db:
            return {State(state): number for state, number in db.execute(query)}

    def with_poll_errors(self) -> list[ImportRecord]:
        """Every import whose last poll failed."""
        return self._where(imports.c.poll_error.is_not(None))

    def held_up(self, clouds: Collection[str | None]) -> dict[str, State]:
        """Id and state of the imports of these clouds that wait for a person or for credentials,
        and of those whose polls fail. None is the workers' default cloud."""
        waits = (imports.c.state == State.WAITING.value) & imports.c.waits_for.in_(
            [WaitsFor.CREDENTIALS.value, WaitsFor.PERSON.value]
        )
        named = imports.c.cloud.in_([cloud for cloud in clouds if cloud is not None])
        query = select(imports.c.id, imports.c.state).where(
            waits | imports.c.poll_error.is_not(None),
            named | imports.c.cloud.is_(None) if None in clouds else named,
        )
        with transaction(self._engine, write=False) as db:
            return {import_id: State(state) for import_id, state in db.execute(query)}

    def events(self, import_id: str, *, after: int = 0) -> list[Event]:
        """The events of an import with a number above `after`, in order. Raises NotFound."""
        query = (
            select(events)
            .where(events.c.import_id == import_id, events.c.id > after)
            .order_by(events.c.id)
        )
        with transaction(self._engine, write=False) as db:
            read(db, import_id)
            return [Event.model_validate(dict(row)) for row in db.execute(query).mappings()]

    def earlier_images(self, import_id: str) -> set[str]:
        """Ids of the images that previous attempts of an import are known to have created."""
        earlier: set[str] = set()
        seen: set[str] = set()
        for event in self.events(import_id):
            if event.from_state in TERMINAL:
                earlier |= seen
            if image_id := event.facts.get("image_id"):
                seen.add(image_id)
        return earlier

    # --- what the sweep needs to rebuild the schedule ---------------------------------------

    def save_canvas(self, import_id: str, canvas: str) -> None:
        """Store the Celery signature of the poll that ends the import."""
        with transaction(self._engine, write=True) as db:
            db.execute(update(imports).where(imports.c.id == import_id).values(canvas=canvas))

    def with_canvases(
        self, import_ids: Collection[str]
    ) -> dict[str, tuple[ImportRecord, str | None]]:
        """Record and canvas of each of these imports that exists."""
        query = select(imports).where(imports.c.id.in_(list(import_ids)))
        with transaction(self._engine, write=False) as db:
            rows = db.execute(query).mappings().all()
        return {row["id"]: (record_of(row), row["canvas"]) for row in rows}

    def mark_reported(self, import_id: str) -> None:
        """Celery's result backend has the final result."""
        unreported = (imports.c.id == import_id, imports.c.reported_at.is_(None))
        with transaction(self._engine, write=True) as db:
            db.execute(update(imports).where(*unreported).values(reported_at=self._now()))

    def is_reported(self, import_id: str) -> bool:
        query = select(imports.c.reported_at).where(imports.c.id == import_id)
        with transaction(self._engine, write=False) as db:
            return db.execute(query).scalar() is not None

    def unreported(self, *, limit: int = 1000, after: str | None = None) -> list[ImportRecord]:
        """Imports that have not ended, or whose end is not reported; by id, after `after`."""
        query = (
            select(imports)
            .where(imports.c.reported_at.is_(None))
            .order_by(imports.c.id)
            .limit(limit)
        )
        if after is not None:
            query = query.where(imports.c.id > after)
        with transaction(self._engine, write=False) as db:
            return [record_of(row) for row in db.execute(query).mappings()]


def _same(existing: ImportRecord, request: ImportRequest) -> ImportRecord:
    if existing.request != request.as_message():
        raise KeyConflict(existing)
    return existing
