"""Moves imports from state to state by compare-and-set, each transition with its event."""

from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from datetime import datetime
from typing import Final, Unpack

from sqlalchemy import ColumnElement, Connection, Engine, Select, func, select, update

from ims_config.records import (
    TERMINAL,
    ImportRecord,
    ImportResult,
    Origin,
    PollError,
    Progress,
    State,
    WaitsFor,
)
from ims_config.webhooks import WebhookEvent, progress_steps
from ims_ledger import outbox
from ims_ledger.changes import Changes, as_columns
from ims_ledger.database import transaction
from ims_ledger.errors import ConcurrentTransition, IllegalTransition, InvalidState
from ims_ledger.events import append, receivers
from ims_ledger.rows import imports, read

_S = State

TRANSITIONS: Final[Mapping[State, frozenset[State]]] = {
    _S.QUEUED: frozenset({_S.SUBMITTING, _S.WAITING, _S.FAILED, _S.CANCELED}),
    # From WAITING to WAITING: the reason has changed.
    _S.WAITING: frozenset({_S.SUBMITTING, _S.WAITING, _S.QUEUED, _S.FAILED, _S.CANCELED}),
    _S.SUBMITTING: frozenset(
        {_S.RUNNING, _S.UNCERTAIN, _S.WAITING, _S.QUEUED, _S.FAILED, _S.CANCELED}
    ),
    _S.UNCERTAIN: frozenset(
        {_S.UNCERTAIN, _S.RUNNING, _S.VERIFYING, _S.QUEUED, _S.WAITING, _S.FAILED, _S.CANCELED}
    ),
    # Back to UNCERTAIN: the cloud no longer knows the job. To WAITING: it failed, and may be tried
    # again.
    _S.RUNNING: frozenset({_S.VERIFYING, _S.UNCERTAIN, _S.WAITING, _S.FAILED, _S.CANCELED}),
    _S.VERIFYING: frozenset({_S.SUCCEEDED, _S.FAILED, _S.CANCELED}),
    _S.SUCCEEDED: frozenset(),
    # A new attempt of the same import.
    _S.FAILED: frozenset({_S.QUEUED}),
    _S.CANCELED: frozenset({_S.QUEUED}),
}


def allowed(from_state: State, to: State) -> bool:
    """Whether an import in state `from_state` may be moved to `to`."""
    return to in TRANSITIONS[from_state]


# States in which an import may have a job in its project.
ACTIVE: Final = (State.SUBMITTING, State.UNCERTAIN, State.RUNNING, State.VERIFYING)
# Columns that a new attempt resets.
_OF_AN_ATTEMPT: Final = (
    "reported_at", "job_id", "image_id", "image", "error", "submitted_at", "cancel", "canvas",
)  # fmt: skip
# How often a transition reads again after losing a race for the same import.
_RACES: Final = 10


class _Overtaken(ConcurrentTransition):
    """Another transition was committed between our SELECT and our UPDATE."""


class Transitions:
    """Every method may raise LedgerUnavailable and LedgerOutdated."""

    def __init__(self, engine: Engine, now: Callable[[], datetime]) -> None:
        self._engine = engine
        self._now = now

    def move(
        self,
        import_id: str,
        *,
        from_state: State | Collection[State],
        to: State,
        version: int | None = None,
        reason: str | None = None,
        **changes: Unpack[Changes],
    ) -> ImportResult:
        """Move an import that is in `from_state` (and has this version) and append the event.

        Raises ConcurrentTransition, IllegalTransition, NotFound.
        """
        states = {from_state} if isinstance(from_state, State) else set(from_state)

        def step(db: Connection) -> ImportResult:
            current = read(db, import_id)
            if current.state not in states or version not in (None, current.version):
                raise ConcurrentTransition(current)
            return self._move(db, current, to, reason, changes)

        return self._unless_overtaken(step)

    def _unless_overtaken(self, step: Callable[[Connection], ImportResult]) -> ImportResult:
        """Read and move in one transaction; read again after losing a race."""
        for _ in range(_RACES - 1):
            with suppress(_Overtaken), transaction(self._engine, write=True) as db:
                return step(db)
        with transaction(self._engine, write=True) as db:
            return step(db)

    # --- slots of a project -----------------------------------------------------------------

    def admit(
        self,
        import_id: str,
        *,
        version: int,
        project: str,
        limit: int,
        why: Callable[[int, int], str],
    ) -> ImportResult:
        """Move an import to SUBMITTING if its project has a free slot, else to WAITING.

        At most `limit` imports of a project are active over all workers: they are counted under a
        lock, so the count cannot leak. Within a priority the order is first come, first served.
        `why(active, place)` returns the reason of a waiting import. Raises ConcurrentTransition,
        NotFound.
        """
        with transaction(self._engine, write=True) as db:
            self._lock_project(db, project)
            current = read(db, import_id)
            if current.state not in (State.QUEUED, State.WAITING) or current.version != version:
                raise ConcurrentTransition(current)
            active = int(db.execute(_count_active(project)).scalar_one())
            ahead = int(db.execute(_count_ahead(current, project)).scalar_one())
            if active + ahead < limit:
                return self._move(db, current, State.SUBMITTING, None, {
                    "project": project, "error": None,
                    "attempts": current.attempts + 1, "attempted_at": self._now(),
                })  # fmt: skip
            reason = why(active, ahead + 1)
            if (current.waits_for, current.project) == (WaitsFor.SLOT, project):
                # Moving up in line is no event: in a long line such events would be too many.
                mine = imports.c.id == import_id
                db.execute(update(imports).where(mine).values(reason=reason))
                return read(db, import_id)
            changes: Changes = {"project": project, "error": None, "waits_for": WaitsFor.SLOT}
            return self._move(db, current, State.WAITING, reason, changes)

    def next_in_line(self, project: str, *, limit: int) -> list[str]:
        """Ids of the waiting imports that the free slots of a project are for, in order."""
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

    def _lock_project(self, db: Connection, project: str) -> None:
        # SQLite has one writer anyway.
        if self._engine.dialect.name == "postgresql":
            db.execute(select(func.pg_advisory_xact_lock(func.hashtext(f"ims-import {project}"))))

    # --- decisions of people ----------------------------------------------------------------

    def cancel(self, import_id: str, *, leave_image: bool = False, by: str | None) -> ImportResult:
        """Cancel an import before its POST; after that, store that its image is to be removed.

        IMS cannot cancel a job: the worker deletes the image when the job has ended, or leaves it
        with `leave_image`. Raises NotFound, InvalidState (it has ended).
        """
        changes: Changes = {"cancel": "leave" if leave_image else "delete"}

        def step(db: Connection) -> ImportResult:
            current = read(db, import_id)
            if current.state in TERMINAL:
                raise InvalidState(current, "it has ended")
            if current.state in (State.QUEUED, State.WAITING):
                return self._move(db, current, State.CANCELED, f"canceled by {by or '?'}", {})
            now = self._now()
            self._swap(db, current, {**changes, "updated_at": now})
            reason = f"asked by {by or '?'}"
            append(db, current, "cancel", at=now, reason=reason, changes=changes)
            return read(db, import_id)

        return self._unless_overtaken(step)

    def retry(self, import_id: str, *, by: str | None) -> ImportResult:
        """Start a new attempt of a FAILED or CANCELED import, under the same id."""
        return self._decide(
            import_id,
            from_state=(State.FAILED, State.CANCELED),
            to=State.QUEUED,
            why="only FAILED and CANCELED imports can be tried again",
            reason=f"tried again by {by or '?'}",
            changes={},
        )

    def resolve(
        self, import_id: str, *, to: State, by: str | None, **changes: Unpack[Changes]
    ) -> ImportResult:
        """Decide about an UNCERTAIN import: QUEUED, VERIFYING (with image_id) or FAILED."""
        return self._decide(
            import_id,
            from_state=(State.UNCERTAIN,),
            to=to,
            why="only UNCERTAIN imports can be resolved",
            reason=f"resolved by {by or '?'}",
            changes=changes,
        )

    def _decide(
        self,
        import_id: str,
        *,
        from_state: tuple[State, ...],
        to: State,
        why: str,
        reason: str,
        changes: Changes,
    ) -> ImportResult:
        def step(db: Connection) -> ImportResult:
            current = read(db, import_id)
            if current.state not in from_state:
                raise InvalidState(current, why)
            if to is State.QUEUED and current.origin is Origin.ADOPTED:
                raise InvalidState(current, "an adopted import has no request to send again")
            return self._move(db, current, to, reason, changes)

        return self._unless_overtaken(step)

    # --- events without a transition --------------------------------------------------------

    def add_event(
        self, import_id: str, kind: str, *, reason: str | None = None, **changes: Unpack[Changes]
    ) -> ImportResult:
        """Append an event without a transition."""
        with transaction(self._engine, write=True) as db:
            current = read(db, import_id)
            if changes:
                mine = imports.c.id == import_id
                db.execute(update(imports).where(mine).values(as_columns(changes)))
            append(db, current, kind, at=self._now(), reason=reason, changes=changes)
            return read(db, import_id)

    def report_poll_error(self, import_id: str, error: PollError | None) -> ImportResult:
        """Store why polls fail, or None when they succeed again, with one event per change.

        Polls that fail with the same code change nothing, and the end of an import is the end of
        its polls.
        """
        with transaction(self._engine, write=True) as db:
            current = read(db, import_id)
            if current.state in TERMINAL or _code(current.poll_error) == _code(error):
                return current
            changes: Changes = {"poll_error": error}
            # Another transaction may have ended the import since it was read.
            mine = (imports.c.id == import_id, imports.c.version == current.version)
            if not db.execute(update(imports).where(*mine).values(as_columns(changes))).rowcount:
                return read(db, import_id)
            kind, reason = ("unreachable", str(error)) if error else ("reachable", None)
            append(db, current, kind, at=self._now(), reason=reason, changes=changes)
            return read(db, import_id)

    def report_progress(self, import_id: str, progress: Progress) -> None:
        """Enqueue progress for webhook receivers; without receivers nothing is stored."""
        with transaction(self._engine, write=False) as db:
            record = read(db, import_id)
            if not receivers(db, record, WebhookEvent.PROGRESS):
                return
        with transaction(self._engine, write=True) as db:
            record = record.model_copy(update={"progress": progress})
            urls = receivers(db, record, WebhookEvent.PROGRESS)
            occasion = f"attempt {record.attempts}, step {progress_steps(progress.percent)}"
            outbox.enqueue(
                db, record, WebhookEvent.PROGRESS, urls, occasion=occasion, at=self._now()
            )

    # --- compare-and-set --------------------------------------------------------------------

    def _move(
        self,
        db: Connection,
        current: ImportRecord,
        to: State,
        reason: str | None,
        changes: Changes,
    ) -> ImportResult:
        if not allowed(current.state, to):
            raise IllegalTransition(f"{current.state} → {to} (import {current.id})")
        now = self._now()
        self._swap(db, current, {"reason": reason, **_columns(current, to, changes, now)})
        append(
            db,
            current,
            "transition",
            at=now,
            from_state=current.state,
            to=to,
            reason=reason,
            changes=changes,
        )
        return read(db, current.id)

    def _swap(self, db: Connection, current: ImportRecord, columns: Mapping[str, object]) -> None:
        """Update the row if it still has the version that we read. Raises _Overtaken."""
        swapped = db.execute(
            update(imports)
            .where(imports.c.id == current.id, imports.c.version == current.version)
            .values({**columns, "version": current.version + 1})
        )
        if swapped.rowcount != 1:
            raise _Overtaken(current)


# States in which the cloud is not polled, so that no poll can fail.
_NOT_POLLED: Final = TERMINAL | {State.QUEUED, State.WAITING, State.SUBMITTING}


def _columns(
    current: ImportRecord, to: State, changes: Changes, now: datetime
) -> dict[str, object]:
    columns = {"waits_for": None, **as_columns(changes), "state": to.value, "updated_at": now}
    columns["finished_at"] = columns.get("finished_at", now) if to in TERMINAL else None
    if to in _NOT_POLLED:
        columns["poll_error"] = None
    if to is State.RUNNING and current.submitted_at is None:
        columns.setdefault("submitted_at", now)
    if to is State.SUCCEEDED:
        columns["error"] = None
    if current.state in TERMINAL:
        # A new attempt has its own result; the previous one is reported already.
        columns |= dict.fromkeys(_OF_AN_ATTEMPT) | {"overdue": False, "polls": 0}
    return columns


def _code(error: PollError | None) -> str | None:
    return error.code if error else None


def _count_active(project: str) -> Select[int]:
    return select(func.count()).where(
        imports.c.project == project, imports.c.state.in_([state.value for state in ACTIVE])
    )


def _in_line(project: str) -> tuple[ColumnElement[bool], ...]:
    return (
        imports.c.project == project,
        imports.c.state == State.WAITING.value,
        imports.c.waits_for == WaitsFor.SLOT.value,
    )


def _count_ahead(mine: ImportRecord, project: str) -> Select[int]:
    """The number of imports in line before this one."""
    same_time = (imports.c.created_at == mine.created_at) & (imports.c.id < mine.id)
    earlier = (imports.c.created_at < mine.created_at) | same_time
    return select(func.count()).where(
        *_in_line(project),
        imports.c.id != mine.id,
        (imports.c.priority > mine.priority) | ((imports.c.priority == mine.priority) & earlier),
    )
