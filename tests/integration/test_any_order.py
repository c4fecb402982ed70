"""The ledger keeps its promises in any order of calls and with actors at the same moment."""

import itertools
import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from builders import a_request
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from ims_config.records import TERMINAL, State, WaitsFor
from ims_ledger import ConcurrentTransition, IllegalTransition, InvalidState, Ledger
from ims_ledger.transitions import allowed

LIMIT = 2
ACTIVE = {State.SUBMITTING, State.UNCERTAIN, State.RUNNING, State.VERIFYING}
PRIORITIES = {"low": -1, "normal": 0, "high": 1}
# Only an admission gives a slot: nothing else may move an import into SUBMITTING.
TARGETS = st.sampled_from([state for state in State if state is not State.SUBMITTING])
THREADS = 4


@dataclass
class Expected:
    """What an import should look like."""

    rank: tuple[int, int]
    """Order in line: the higher priority, then who came first."""
    state: State = State.QUEUED
    in_line: bool = False
    cancel: str | None = None
    attempts: int = 0


class AnyOrder(RuleBasedStateMachine):
    """One project of a ledger, beside a model of it."""

    ids: Bundle[str] = Bundle("ids")
    ledger: Ledger
    others: list[Ledger]
    pool: ThreadPoolExecutor

    def __init__(self) -> None:
        super().__init__()
        # Of this run alone: the database is shared with the runs before it.
        self.project = f"p-{uuid4()}"
        self.model: dict[str, Expected] = {}
        self.numbers = itertools.count()

    # --- one at a time ------------------------------------------------------------------------

    @rule(target=ids, priority=st.sampled_from(sorted(PRIORITIES)), count=st.integers(1, 3))
    def record(self, priority: str, count: int) -> Any:
        made = []
        for _ in range(count):
            record, created = self.ledger.imports.record(a_request(priority=priority))
            assert created
            self.model[record.id] = Expected(rank=(-PRIORITIES[priority], next(self.numbers)))
            made.append(record.id)
        return multiple(*made)

    @rule(
        import_id=ids,
        from_state=st.sets(st.sampled_from(State), min_size=1, max_size=3),
        to=TARGETS,
    )
    def move(self, import_id: str, from_state: set[State], to: State) -> None:
        mine = self.model[import_id]
        result = outcome(
            lambda: self.ledger.transitions.move(import_id, from_state=from_state, to=to)
        )
        if mine.state not in from_state:
            assert result is ConcurrentTransition
        elif not allowed(mine.state, to):
            assert result is IllegalTransition
        else:
            assert result is None
            self._is_now(import_id, to)

    @rule(import_id=ids, to=TARGETS)
    def move_along_an_arrow(self, import_id: str, to: State) -> None:
        mine = self.model[import_id]
        if allowed(mine.state, to):
            # Who waits for a person has reached the project, and yet is not in line.
            waits = {"project": self.project, "waits_for": WaitsFor.PERSON}
            facts = waits if to is State.WAITING else {}
            self.ledger.transitions.move(import_id, from_state=mine.state, to=to, **facts)
            self._is_now(import_id, to)

    @rule(import_id=ids, to=TARGETS, behind=st.integers(1, 3))
    def move_what_was_read_before(self, import_id: str, to: State, behind: int) -> None:
        current = self.ledger.imports.get(import_id)
        version = current.version - behind
        assert (
            outcome(
                lambda: self.ledger.transitions.move(
                    import_id, from_state=current.state, to=to, version=version
                )
            )
            is ConcurrentTransition
        )

    @rule(import_id=ids)
    def admit(self, import_id: str) -> None:
        mine = self.model[import_id]
        result = outcome(lambda: self._admit(self.ledger, import_id))
        if mine.state not in {State.QUEUED, State.WAITING}:
            assert result is ConcurrentTransition
            return
        assert result is None
        self._was_admitted(import_id)

    @rule(import_id=ids, leave=st.booleans())
    def cancel(self, import_id: str, leave: bool) -> None:  # noqa: FBT001  # a drawn value
        mine = self.model[import_id]
        result = outcome(
            lambda: self.ledger.transitions.cancel(import_id, leave_image=leave, by="me")
        )
        assert (result is InvalidState) == (mine.state in TERMINAL)
        if mine.state in {State.QUEUED, State.WAITING}:
            self._is_now(import_id, State.CANCELED)
        elif mine.state not in TERMINAL:
            mine.cancel = "leave" if leave else "delete"

    @rule(import_id=ids)
    def retry(self, import_id: str) -> None:
        mine = self.model[import_id]
        result = outcome(lambda: self.ledger.transitions.retry(import_id, by="me"))
        assert (result is None) == (mine.state in {State.FAILED, State.CANCELED})
        if result is None:
            self._is_now(import_id, State.QUEUED)

    @rule(import_id=ids, to=st.sampled_from([State.QUEUED, State.VERIFYING, State.FAILED]))
    def resolve(self, import_id: str, to: State) -> None:
        mine = self.model[import_id]
        result = outcome(lambda: self.ledger.transitions.resolve(import_id, to=to, by="me"))
        assert (result is None) == (mine.state is State.UNCERTAIN)
        if result is None:
            self._is_now(import_id, to)

    @rule(import_id=consumes(ids))
    def report_and_prune(self, import_id: str) -> None:
        self.ledger.imports.mark_reported(import_id)
        ended = self.model[import_id].state in TERMINAL

        self.ledger.imports.prune(before=datetime.now(UTC) + timedelta(days=1))

        gone = {
            other
            for other, expected in self.model.items()
            if expected.state in TERMINAL and self._pruned(other)
        }
        assert gone == ({import_id} if ended else set())
        if ended:
            del self.model[import_id]

    # --- at the same moment -------------------------------------------------------------------

    @rule(import_id=ids, ends=st.lists(TARGETS, min_size=THREADS, max_size=THREADS))
    def many_move_what_they_have_read(self, import_id: str, ends: list[State]) -> None:
        """Of those whose arrow exists exactly one wins, and the winner's state is there."""
        read = self.ledger.imports.get(import_id)

        def try_it(own: Ledger, to: State) -> Any:
            return outcome(
                lambda: own.transitions.move(
                    import_id, from_state=read.state, to=to, version=read.version
                )
            )

        result = self._together(try_it, ends)
        could = [to for to in ends if allowed(read.state, to)]
        winners = [to for to, how in zip(ends, result, strict=True) if how is None]
        assert len(winners) == min(len(could), 1)
        if winners:
            self._is_now(import_id, winners[0])

    @rule(seed=st.integers(0, 1000))
    def many_want_a_slot(self, seed: int) -> None:
        """However they meet, no slot is given twice, and none stays free while one waits."""
        open_ones = [
            import_id
            for import_id, mine in self.model.items()
            if mine.state in {State.QUEUED, State.WAITING}
        ]
        if len(open_ones) < THREADS:
            return
        # A drawn sample would depend on how earlier races ended; draws must not.
        chosen = random.Random(seed).sample(open_ones, THREADS)

        result = self._together(self._admit_or_lose, chosen)

        assert result == [None] * THREADS
        for import_id in chosen:
            self._read_admission(import_id)
        if not self._waiting_before_another(chosen):
            assert self._active() == LIMIT or not self._line()

    @rule(import_id=ids)
    def cancel_and_admission_meet(self, import_id: str) -> None:
        """Never both: canceled before IMS was asked means that IMS is never asked."""
        asked_before = self.model[import_id].cancel
        if self.model[import_id].state not in {State.QUEUED, State.WAITING}:
            return

        def act(own: Ledger, what: str) -> Any:
            if what == "cancel":
                return outcome(lambda: own.transitions.cancel(import_id, by="me"))
            return self._admit_or_lose(own, import_id)

        canceled, _ = self._together(act, ["cancel", "admit"])
        assert canceled is None

        now = self.ledger.imports.get(import_id)
        assert (now.state, now.cancel) in {
            # Canceled while the create request was in flight, which IMS then refused.
            (State.CANCELED, asked_before),
            (State.SUBMITTING, "delete"),
        }
        self._read_admission(import_id)
        self.model[import_id].cancel = now.cancel

    # --- what always holds --------------------------------------------------------------------

    @invariant()
    def records_are_as_expected(self) -> None:
        for import_id, mine in self.model.items():
            now = self.ledger.imports.get(import_id)
            assert (now.state, now.cancel, now.attempts) == (mine.state, mine.cancel, mine.attempts)
            assert (now.finished_at is not None) == (now.state in TERMINAL)

    @invariant()
    def slots_are_counted_right(self) -> None:
        records = self.ledger.imports.of_project(self.project)
        assert sum(record.state in ACTIVE for record in records) == self._active() <= LIMIT
        free = LIMIT - self._active()
        assert (
            self.ledger.transitions.next_in_line(self.project, limit=LIMIT) == self._line()[:free]
        )

    @invariant()
    def every_story_is_whole(self) -> None:
        for import_id, mine in self.model.items():
            steps = [
                event
                for event in self.ledger.imports.events(import_id)
                if event.to_state is not None
            ]
            assert (steps[0].from_state, steps[-1].to_state) == (None, mine.state)
            for before, after in itertools.pairwise(steps):
                assert before.to_state == after.from_state
                assert allowed(State(str(after.from_state)), State(str(after.to_state)))

    # --- the model ----------------------------------------------------------------------------

    def _is_now(self, import_id: str, state: State) -> None:
        mine = self.model[import_id]
        if mine.state in TERMINAL:
            mine.cancel = None
        mine.state, mine.in_line = state, False

    def _was_admitted(self, import_id: str) -> None:
        mine = self.model[import_id]
        ahead = [other for other in self._line() if self.model[other].rank < mine.rank]
        if self._active() + len(ahead) < LIMIT:
            self._is_now(import_id, State.SUBMITTING)
            mine.attempts += 1
        else:
            self._is_now(import_id, State.WAITING)
            mine.in_line = True

    def _read_admission(self, import_id: str) -> None:
        """Take over what came of a race."""
        now, mine = self.ledger.imports.get(import_id), self.model[import_id]
        self._is_now(import_id, now.state)
        mine.in_line = now.waits_for is WaitsFor.SLOT
        mine.attempts = now.attempts

    def _waiting_before_another(self, chosen: list[str]) -> bool:
        """Whether a slot was kept for somebody ahead in line who did not ask just now."""
        return any(other not in chosen for other in self._line())

    def _active(self) -> int:
        return sum(mine.state in ACTIVE and mine.attempts > 0 for mine in self.model.values())

    def _line(self) -> list[str]:
        waiting = [other for other, mine in self.model.items() if mine.in_line]
        return sorted(waiting, key=lambda other: self.model[other].rank)

    # --- acting -------------------------------------------------------------------------------

    def _admit(self, own: Ledger, import_id: str) -> Any:
        version = own.imports.get(import_id).version
        return own.transitions.admit(
            import_id, version=version, project=self.project, limit=LIMIT, why=lambda *_: "in line"
        )

    def _admit_or_lose(self, own: Ledger, import_id: str) -> Any:
        return outcome(lambda: self._admit(own, import_id))

    def _together(self, act: Callable[[Ledger, Any], Any], what: list[Any]) -> list[Any]:
        start = threading.Barrier(len(what))

        def one(own: Ledger, given: Any) -> Any:
            start.wait(10)
            return act(own, given)

        return list(self.pool.map(one, self.others[: len(what)], what))

    def _pruned(self, import_id: str) -> bool:
        return not self.ledger.imports.with_canvases([import_id])


def outcome(call: Callable[[], Any]) -> type[Exception] | None:
    try:
        call()
    except (ConcurrentTransition, IllegalTransition, InvalidState) as exc:
        return type(exc)
    return None


def test_in_any_order_and_at_the_same_moment(ledger: Ledger, url: str) -> None:
    others = [Ledger(url) for _ in range(THREADS)]
    with ThreadPoolExecutor(THREADS) as pool:
        AnyOrder.ledger, AnyOrder.others, AnyOrder.pool = ledger, others, pool
        run_state_machine_as_test(
            AnyOrder,
            settings=settings(
                max_examples=30,
                stateful_step_count=30,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
    for own in others:
        own.close()
