"""The ledger: every import, moved by compare-and-set, with one event for each move."""

from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final, cast
from uuid import uuid4

from pydantic import BaseModel
from sqlalchemy import (
    ColumnElement,
    Connection,
    RowMapping,
    Select,
    Table,
    delete,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError

from ims_config.import_request import ADOPTED_URL, ImportRequest, parse_request
from ims_config.records import (
    TERMINAL,
    Event,
    ImportRecord,
    ImportResult,
    Progress,
    State,
    WaitsFor,
)
from ims_config.webhooks import WebhookEvent, progress_steps
from ims_ledger.api_keys import ApiKeys
from ims_ledger.database import open_engine, transaction
from ims_ledger.errors import (
    ConcurrentTransition,
    IllegalTransition,
    InvalidState,
    KeyConflict,
    NoSuchImport,
)
from ims_ledger.imported_objects import ImportedObjects
from ims_ledger.outbox import Deliveries, DeliveryState, deliveries, write
from ims_ledger.tables import EventRow, ImportRow
from ims_ledger.transitions import allowed
from ims_ledger.webhook_endpoints import Webhooks, registered

imports = cast("Table", ImportRow.__table__)
events = cast("Table", EventRow.__table__)

# What a move or a note may record beside the state.
FACTS: Final = frozenset(
    {
        "reason", "project", "job_id", "image_id", "error", "image", "submitted_at",
        "finished_at", "attempts", "polls", "overdue", "waits_for", "cancel", "attempted_at",
    }
)  # fmt: skip
ACTIVE: Final = (State.SUBMITTING, State.UNCERTAIN, State.RUNNING, State.VERIFYING)
# What a new attempt begins without.
_OF_AN_ATTEMPT: Final = (
    "reported_at", "job_id", "image_id", "image", "error", "submitted_at", "cancel", "canvas",
)  # fmt: skip
# Databases limit the values of one statement.
_AT_ONCE: Final = 500
# How often a move looks again when others move the same import at the same time.
_RACES: Final = 10


class _Overtaken(ConcurrentTransition):
    """Another move came between our look and ours."""


def utc_now() -> datetime:
    return datetime.now(UTC)


class Ledger:
    """Thread-safe; to be opened after a fork, not before.

    Every method may raise LedgerUnavailable and LedgerOutdated.
    """

    def __init__(self, url: str, *, now: Callable[[], datetime] = utc_now) -> None:
        self._engine = open_engine(url)
        self._now = now
        self.keys = ApiKeys(self._engine, now)
        self.webhooks = Webhooks(self._engine, now)
        self.deliveries = Deliveries(self._engine, now)
        self.watched = ImportedObjects(self._engine, now)

    def migrate(self) -> None:
        """Bring the tables up to date; several processes may do so at once."""
        from ims_ledger.migrate import to_head  # noqa: PLC0415  # Alembic only where it is used

        to_head(self._engine)

    def is_current(self) -> bool:
        from ims_ledger.migrate import at_head  # noqa: PLC0415  # as above

        return at_head(self._engine)

    def close(self) -> None:
        self._engine.dispose()

    # --- remembering ------------------------------------------------------------------------

    def record(
        self,
        request: ImportRequest,
        *,
        import_id: str | None = None,
        key: str | None = None,
        requested_by: str | None = None,
    ) -> tuple[ImportRecord, bool]:
        """Remember a request. Returns the record and whether it is new.

        The same id again, or the same key with an equal request, gives the import that exists;
        the same key with another request raises KeyConflict.
        """
        row = self._new_row(request, import_id or str(uuid4()), key, requested_by)
        try:
            with transaction(self._engine, write=True) as db:
                if existing := self._existing(db, row["id"], key):
                    return _same(existing, request), False
                db.execute(insert(imports).values(row))
                record = _record(row)
                self._add_event(db, record, "transition", to=State.QUEUED, reason=None, facts={})
        except IntegrityError:
            # PostgreSQL: another process recorded it between our look and our insert.
            with transaction(self._engine, write=False) as db:
                existing = self._existing(db, row["id"], key)
            if existing is None:
                raise
            return _same(existing, request), False
        return record, True

    def _new_row(
        self, request: ImportRequest, import_id: str, key: str | None, requested_by: str | None
    ) -> dict[str, Any]:
        now = self._now()
        return {
            "id": import_id,
            "key": key,
            "state": State.QUEUED.value,
            "cloud": request.cloud,
            "kind": request.kind.value,
            "name": request.name,
            "image_url": request.image_url,
            "request": request.as_message(),
            "requested_by": requested_by,
            "priority": request.priority.rank,
            "created_at": now,
            "updated_at": now,
            "overdue": False,
            "attempts": 0,
            "polls": 0,
            "version": 0,
        }

    def _existing(self, db: Connection, import_id: str, key: str | None) -> ImportRecord | None:
        by_id = imports.c.id == import_id
        found = db.execute(
            select(imports).where(by_id if key is None else (by_id | (imports.c.key == key)))
        ).mappings()
        row = found.first()
        return None if row is None else _record(row)

    # --- moving -----------------------------------------------------------------------------

    def move(
        self,
        import_id: str,
        *,
        from_state: State | Collection[State],
        to: State,
        version: int | None = None,
        **facts: Any,
    ) -> ImportResult:
        """Move an import that is in `from_state` (and of that version), together with its event.

        Facts: reason (none unless given), project, job_id, image_id, error, image, submitted_at,
        finished_at, attempts, polls, overdue. Raises ConcurrentTransition, IllegalTransition,
        NoSuchImport.
        """
        states = {from_state} if isinstance(from_state, State) else set(from_state)

        def step(db: Connection) -> ImportResult:
            current = self._get(db, import_id)
            if current.state not in states or version not in (None, current.version):
                raise ConcurrentTransition(current)
            self._moved(db, current, to, facts)
            return self._get(db, import_id)

        return self._unless_overtaken(step)

    def _unless_overtaken(self, step: Callable[[Connection], ImportResult]) -> ImportResult:
        """Look and move in one transaction, and look again when another move came between."""
        for _ in range(_RACES - 1):
            with suppress(_Overtaken), transaction(self._engine, write=True) as db:
                return step(db)
        with transaction(self._engine, write=True) as db:
            return step(db)

    def admit(
        self,
        import_id: str,
        *,
        version: int,
        project: str,
        limit: int,
        why: Callable[[int, int], str],
    ) -> ImportResult:
        """Move an import to SUBMITTING if its project has a slot for it, else put it in line.

        At most `limit` imports of a project are active over all workers: they are counted under a
        lock, so the count cannot leak. Within a priority, first come first served.
        `why(active, place)` gives the reason of a queued one. Raises ConcurrentTransition,
        NoSuchImport.
        """
        with transaction(self._engine, write=True) as db:
            self._one_at_a_time(db, project)
            current = self._get(db, import_id)
            if current.state not in (State.QUEUED, State.WAITING) or current.version != version:
                raise ConcurrentTransition(current)
            active = int(db.execute(_count_active(project)).scalar_one())
            ahead = int(db.execute(_count_ahead(current, project)).scalar_one())
            if active + ahead < limit:
                facts = {
                    "project": project,
                    "error": None,
                    "attempts": current.attempts + 1,
                    "attempted_at": self._now(),
                }
                self._moved(db, current, State.SUBMITTING, facts)
            elif (current.waits_for, current.project) == (WaitsFor.SLOT, project):
                # Moving up in line is no event: a long line would drown everything else.
                mine = imports.c.id == import_id
                db.execute(update(imports).where(mine).values(reason=why(active, ahead + 1)))
            else:
                facts = {
                    "project": project,
                    "error": None,
                    "reason": why(active, ahead + 1),
                    "waits_for": WaitsFor.SLOT,
                }
                self._moved(db, current, State.WAITING, facts)
            return self._get(db, import_id)

    def next_in_line(self, project: str, *, limit: int) -> list[str]:
        """Ids of those that the free slots of a project are for, the first in line first."""
        with transaction(self._engine, write=False) as db:
            free = limit - int(db.execute(_count_active(project)).scalar_one())
            if free <= 0:
                return []
            line = (
                select(imports.c.id)
                .where(*_in_line(project))
                .order_by(imports.c.priority.desc(), imports.c.created_at, imports.c.id)
            )
            return list(db.execute(line.limit(free)).scalars())

    # --- what a person asks for ---------------------------------------------------------------

    def cancel(self, import_id: str, *, leave_image: bool = False, by: str | None) -> ImportResult:
        """Cancel before IMS was asked; after that, remember to cancel when the job has ended.

        IMS itself cannot cancel a job: its image is deleted when it is done, or left if asked to.
        Raises NoSuchImport, InvalidState (it has ended).
        """
        what = "leave" if leave_image else "delete"

        def step(db: Connection) -> ImportResult:
            current = self._get(db, import_id)
            if current.state in TERMINAL:
                raise InvalidState(current, "it has ended")
            if current.state in (State.QUEUED, State.WAITING):
                self._moved(db, current, State.CANCELED, {"reason": f"canceled by {by or '?'}"})
            elif self._swap(db, current, {"cancel": what, "updated_at": self._now()}):
                self._add_event(
                    db, current, "cancel", reason=f"asked by {by or '?'}", facts={"cancel": what}
                )
            else:
                raise _Overtaken(current)
            return self._get(db, import_id)

        return self._unless_overtaken(step)

    def retry(self, import_id: str, *, by: str | None) -> ImportResult:
        """Begin a new attempt of an import that FAILED or was CANCELED, under the same id."""
        return self._decided(
            import_id,
            from_state=(State.FAILED, State.CANCELED),
            to=State.QUEUED,
            why="only FAILED and CANCELED imports can be tried again",
            facts={"reason": f"tried again by {by or '?'}"},
        )

    def resolve(self, import_id: str, *, to: State, by: str | None, **facts: Any) -> ImportResult:
        """Say what became of an UNCERTAIN import: QUEUED, VERIFYING (with image_id) or FAILED."""
        return self._decided(
            import_id,
            from_state=(State.UNCERTAIN,),
            to=to,
            why="only UNCERTAIN imports can be resolved",
            facts=facts | {"reason": f"resolved by {by or '?'}"},
        )

    def _decided(
        self,
        import_id: str,
        *,
        from_state: tuple[State, ...],
        to: State,
        why: str,
        facts: dict[str, Any],
    ) -> ImportResult:
        def step(db: Connection) -> ImportResult:
            current = self._get(db, import_id)
            if current.state not in from_state:
                raise InvalidState(current, why)
            self._moved(db, current, to, facts)
            return self._get(db, import_id)

        return self._unless_overtaken(step)

    def adopt(
        self, job_id: str, *, name: str, cloud: str | None, by: str | None
    ) -> tuple[ImportRecord, bool]:
        """Remember an import whose job somebody else started; the same job gives the same one.

        Raises InvalidRequest for a name or cloud that cannot be.
        """
        key, now = f"job:{job_id}", self._now()
        row = self._new_row(
            parse_request(
                {"name": name, "image_url": ADOPTED_URL, "min_disk": 1, "cloud": cloud}
            ),
            str(uuid4()), key, by,
        ) | {"state": State.RUNNING.value, "job_id": job_id, "submitted_at": now}  # fmt: skip
        with transaction(self._engine, write=True) as db:
            if existing := self._existing(db, row["id"], key):
                return existing, False
            db.execute(insert(imports).values(row))
            record = _record(row)
            self._add_event(
                db, record, "transition", to=State.RUNNING,
                reason=f"job {job_id} adopted", facts={"job_id": job_id},
            )  # fmt: skip
        return record, True

    def prune(self, *, before: datetime, only_count: bool = False) -> int:
        """Forget imports that ended, and were reported, before this moment; returns how many.

        Of which a receiver is still to be told are kept.
        """
        untold = select(deliveries.c.import_id).where(
            deliveries.c.state == DeliveryState.PENDING.value
        )
        old = (
            imports.c.id.not_in(untold),
            imports.c.state.in_([state.value for state in TERMINAL]),
            imports.c.finished_at < before,
            imports.c.reported_at.is_not(None),
        )
        with transaction(self._engine, write=not only_count) as db:
            number = int(
                db.execute(select(func.count()).select_from(imports).where(*old)).scalar_one()
            )
            if number and not only_count:
                ids = select(imports.c.id).where(*old)
                for table in (deliveries, events):
                    db.execute(delete(table).where(table.c.import_id.in_(ids)))
                db.execute(delete(imports).where(*old))
        return number

    def of_project(self, project: str) -> list[ImportRecord]:
        """Every import that has reached this project."""
        query = select(imports).where(imports.c.project == project)
        with transaction(self._engine, write=False) as db:
            return [_record(row) for row in db.execute(query).mappings()]

    def waiting_for(self, what: WaitsFor, *, cloud: str | None) -> list[str]:
        """Ids of the imports of a cloud that wait for this."""
        query = select(imports.c.id).where(
            imports.c.state == State.WAITING.value,
            imports.c.waits_for == what.value,
            imports.c.cloud.is_(None) if cloud is None else imports.c.cloud == cloud,
        )
        with transaction(self._engine, write=False) as db:
            return list(db.execute(query).scalars())

    def earlier_images(self, import_id: str) -> set[str]:
        """Images that earlier attempts of an import are known to have made."""
        earlier: set[str] = set()
        seen: set[str] = set()
        for event in self.events(import_id):
            if event.from_state in TERMINAL:
                earlier |= seen
            if image_id := event.facts.get("image_id"):
                seen.add(image_id)
        return earlier

    def _one_at_a_time(self, db: Connection, project: str) -> None:
        # SQLite has one writer anyway.
        if self._engine.dialect.name == "postgresql":
            db.execute(select(func.pg_advisory_xact_lock(func.hashtext(f"ims-import {project}"))))

    def _moved(
        self, db: Connection, current: ImportRecord, to: State, facts: dict[str, Any]
    ) -> None:
        if not allowed(current.state, to):
            raise IllegalTransition(f"{current.state} → {to} (import {current.id})")
        if not self._swap(db, current, self._columns(current, to, facts)):
            raise _Overtaken(current)
        self._add_event(
            db,
            current,
            "transition",
            from_state=current.state,
            to=to,
            reason=facts.get("reason"),
            facts=facts,
        )

    def _columns(self, current: ImportRecord, to: State, facts: dict[str, Any]) -> dict[str, Any]:
        now = self._now()
        columns = (
            {"reason": None, "waits_for": None}
            | _plain(facts)
            | {"state": to.value, "updated_at": now}
        )
        if to in TERMINAL:
            columns.setdefault("finished_at", now)
        else:
            columns["finished_at"] = None
        if to is State.RUNNING and current.submitted_at is None:
            columns.setdefault("submitted_at", now)
        if to is State.SUCCEEDED:
            columns["error"] = None
        if current.state in TERMINAL:
            # A new attempt has a result of its own; who waited for the old one was told.
            columns |= dict.fromkeys(_OF_AN_ATTEMPT) | {"overdue": False, "polls": 0}
        return columns

    def _swap(self, db: Connection, current: ImportRecord, columns: dict[str, Any]) -> bool:
        swapped = db.execute(
            update(imports)
            .where(imports.c.id == current.id, imports.c.version == current.version)
            .values(columns | {"version": current.version + 1})
        )
        return swapped.rowcount == 1

    def add_event(self, import_id: str, kind: str, **facts: Any) -> ImportResult:
        """Record an event without a move; facts are as in `move`, and `reason` is the event's."""
        reason = facts.pop("reason", None)
        with transaction(self._engine, write=True) as db:
            current = self._get(db, import_id)
            if facts:
                db.execute(update(imports).where(imports.c.id == import_id).values(_plain(facts)))
            self._add_event(db, current, kind, reason=reason, facts=facts)
            return self._get(db, import_id)

    def progressed(self, import_id: str, progress: Progress) -> None:
        """Have receivers told how far an import is; nothing is recorded where there are none."""
        with transaction(self._engine, write=False) as db:
            record = self._get(db, import_id)
            if not _receivers(db, record, WebhookEvent.PROGRESS):
                return
        with transaction(self._engine, write=True) as db:
            record = record.model_copy(update={"progress": progress})
            urls = _receivers(db, record, WebhookEvent.PROGRESS)
            occasion = f"attempt {record.attempts}, step {progress_steps(progress.percent)}"
            write(db, record, WebhookEvent.PROGRESS, urls, occasion=occasion, at=self._now())

    def _add_event(
        self,
        db: Connection,
        about: ImportRecord,
        kind: str,
        *,
        reason: str | None,
        facts: dict[str, Any],
        from_state: State | None = None,
        to: State | None = None,
    ) -> None:
        kept = {
            name: value for name, value in _plain(facts, as_json=True).items() if name != "reason"
        }
        at = self._now()
        added = db.execute(
            insert(events).values(
                import_id=about.id,
                at=at,
                kind=kind,
                from_state=from_state,
                to_state=to,
                reason=reason,
                facts=kept,
            )
        )
        told = webhook_event_for(kind, to, facts)
        # Who is told does not depend on how the import stands; what they are told does.
        urls = [] if told is None else _receivers(db, about, told)
        if told is not None and urls:
            [number] = added.inserted_primary_key or [0]
            write(db, self._get(db, about.id), told, urls, occasion=f"event {number}", at=at)

    # --- reading ----------------------------------------------------------------------------

    def get(self, import_id: str) -> ImportResult:
        """The import as it stands. Raises NoSuchImport."""
        with transaction(self._engine, write=False) as db:
            return self._get(db, import_id)

    def _get(self, db: Connection, import_id: str) -> ImportResult:
        row = db.execute(select(imports).where(imports.c.id == import_id)).mappings().first()
        if row is None:
            raise NoSuchImport(import_id)
        return _result(row)

    def find_key(self, key: str) -> ImportRecord | None:
        with transaction(self._engine, write=False) as db:
            row = db.execute(select(imports).where(imports.c.key == key)).mappings().first()
        return None if row is None else _record(row)

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
        """Imports, newest first; `before` is the id of the last one of the page before.

        `clouds`: of these only. `tag`: a key and its value. Created from `created_after` on and
        before `created_before`.
        """
        query = select(imports).order_by(imports.c.created_at.desc(), imports.c.id.desc())
        if states:
            query = query.where(imports.c.state.in_([state.value for state in states]))
        if name is not None:
            query = query.where(imports.c.name == name)
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
                last = self._get(db, before)
                at = imports.c.created_at
                query = query.where(
                    (at < last.created_at) | ((at == last.created_at) & (imports.c.id < last.id))
                )
            return [_record(row) for row in db.execute(query.limit(limit)).mappings()]

    def named(self, names: Collection[str]) -> list[ImportRecord]:
        """Every import of an image with one of these names."""
        found: list[ImportRecord] = []
        with transaction(self._engine, write=False) as db:
            wanted = sorted(set(names))
            for start in range(0, len(wanted), _AT_ONCE):
                some = wanted[start : start + _AT_ONCE]
                query = select(imports).where(imports.c.name.in_(some))
                found += [_record(row) for row in db.execute(query).mappings()]
        return found

    def with_keys_from(self, prefix: str) -> list[ImportRecord]:
        """Every import whose key begins so."""
        query = select(imports).where(imports.c.key.startswith(prefix, autoescape=True))
        with transaction(self._engine, write=False) as db:
            return [_record(row) for row in db.execute(query).mappings()]

    def counts(self) -> dict[State, int]:
        """How many imports are in each state; states without any are left out."""
        query = select(imports.c.state, func.count()).group_by(imports.c.state)
        with transaction(self._engine, write=False) as db:
            return {State(state): number for state, number in db.execute(query)}

    def active(self, project: str) -> int:
        """How many imports of ours may have a job in this project."""
        with transaction(self._engine, write=False) as db:
            return int(db.execute(_count_active(project)).scalar_one())

    def events(self, import_id: str, *, after: int = 0) -> list[Event]:
        """What happened to an import, in order, from behind event `after`. Raises NoSuchImport."""
        query = (
            select(events)
            .where(events.c.import_id == import_id, events.c.id > after)
            .order_by(events.c.id)
        )
        with transaction(self._engine, write=False) as db:
            self._get(db, import_id)
            return [Event.model_validate(dict(row)) for row in db.execute(query).mappings()]

    # --- what the queue needs to be rebuilt -------------------------------------------------

    def keep_canvas(self, import_id: str, canvas: str) -> None:
        """Remember the Celery signature of the poll that ends the import."""
        with transaction(self._engine, write=True) as db:
            db.execute(update(imports).where(imports.c.id == import_id).values(canvas=canvas))

    def upcoming(self, import_ids: Collection[str]) -> dict[str, tuple[ImportRecord, str | None]]:
        """Record and canvas of each of the imports that exist."""
        query = select(imports).where(imports.c.id.in_(list(import_ids)))
        with transaction(self._engine, write=False) as db:
            rows = db.execute(query).mappings().all()
        return {row["id"]: (_record(row), row["canvas"]) for row in rows}

    def mark_reported(self, import_id: str) -> None:
        """The final result is in Celery's result backend."""
        with transaction(self._engine, write=True) as db:
            db.execute(
                update(imports)
                .where(imports.c.id == import_id, imports.c.reported_at.is_(None))
                .values(reported_at=self._now())
            )

    def is_reported(self, import_id: str) -> bool:
        query = select(imports.c.reported_at).where(imports.c.id == import_id)
        with transaction(self._engine, write=False) as db:
            return db.execute(query).scalar() is not None

    def open_imports(self, *, limit: int = 1000, after: str | None = None) -> list[ImportRecord]:
        """Imports that have not ended, or whose end was not reported; by id, behind `after`."""
        query = (
            select(imports)
            .where(imports.c.reported_at.is_(None))
            .order_by(imports.c.id)
            .limit(limit)
        )
        if after is not None:
            query = query.where(imports.c.id > after)
        with transaction(self._engine, write=False) as db:
            return [_record(row) for row in db.execute(query).mappings()]


# What receivers of webhooks learn of a move; nothing of most.
_WEBHOOK_EVENTS: Final = {
    State.RUNNING: WebhookEvent.SUBMITTED,
    State.UNCERTAIN: WebhookEvent.UNCERTAIN,
    State.SUCCEEDED: WebhookEvent.SUCCEEDED,
    State.FAILED: WebhookEvent.FAILED,
    State.CANCELED: WebhookEvent.CANCELED,
}


def webhook_event_for(kind: str, to: State | None, facts: Mapping[str, Any]) -> WebhookEvent | None:
    if kind == "overdue":
        return WebhookEvent.OVERDUE
    if to is State.RUNNING and not facts.get("job_id"):
        # A job that was followed before, and is followed again.
        return None
    return None if to is None else _WEBHOOK_EVENTS.get(to)


def _receivers(db: Connection, record: ImportRecord, event: WebhookEvent) -> list[str]:
    """Addresses to be told of this: the request's own, and those registered; each once."""
    own = record.request.get("webhook_url")
    urls = [webhook.url for webhook in registered(db) if webhook.wants(event, record.cloud)]
    return list(dict.fromkeys([own, *urls] if own else urls))


def _count_active(project: str) -> Select[Any]:
    return select(func.count()).where(
        imports.c.project == project, imports.c.state.in_([state.value for state in ACTIVE])
    )


def _in_line(project: str) -> tuple[ColumnElement[bool], ...]:
    return (
        imports.c.project == project,
        imports.c.state == State.WAITING.value,
        imports.c.waits_for == WaitsFor.SLOT.value,
    )


def _count_ahead(mine: ImportRecord, project: str) -> Select[Any]:
    """How many of those in line come before this one."""
    same_time = (imports.c.created_at == mine.created_at) & (imports.c.id < mine.id)
    earlier = (imports.c.created_at < mine.created_at) | same_time
    return select(func.count()).where(
        *_in_line(project),
        imports.c.id != mine.id,
        (imports.c.priority > mine.priority) | ((imports.c.priority == mine.priority) & earlier),
    )


def _same(existing: ImportRecord, request: ImportRequest) -> ImportRecord:
    if existing.request != request.as_message():
        raise KeyConflict(existing)
    return existing


def _record(row: Mapping[str, Any] | RowMapping) -> ImportRecord:
    return ImportRecord.model_validate(dict(row))


def _result(row: Mapping[str, Any] | RowMapping) -> ImportResult:
    return ImportResult.model_validate(dict(row))


def _plain(facts: Mapping[str, Any], *, as_json: bool = False) -> dict[str, Any]:
    """Facts as columns hold them (or as JSON, for an event)."""
    if unknown := set(facts) - FACTS:
        raise TypeError(f"no such facts: {', '.join(sorted(unknown))}")
    plain: dict[str, Any] = {}
    for name, value in facts.items():
        if isinstance(value, BaseModel):
            plain[name] = value.model_dump(mode="json")
        elif as_json and isinstance(value, datetime):
            plain[name] = value.isoformat()
        else:
            plain[name] = value
    return plain
