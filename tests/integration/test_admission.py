"""Who may start a job, and who is next: over all workers, on SQLite and on PostgreSQL."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from builders import a_body, a_request
from running import Running, until

from ims_config.records import State, WaitsFor
from ims_ledger import ConcurrentTransition, Ledger

PROJECT = "p-1"


def in_line(active: int, place: int) -> str:
    return f"{active} active, place {place}"


def admit(ledger: Ledger, import_id: str, *, limit: int, project: str = PROJECT) -> State:
    version = ledger.imports.get(import_id).version
    admitted = ledger.transitions.admit(
        import_id, version=version, project=project, limit=limit, why=in_line
    )
    return admitted.state


def recorded(ledger: Ledger, count: int, **differences: Any) -> list[str]:
    return [
        ledger.imports.record(a_request(name=f"image-{number}", **differences))[0].id
        for number in range(count)
    ]


def test_many_at_once_get_exactly_the_slots_there_are(ledger: Ledger, url: str) -> None:
    ids = recorded(ledger, 24)
    together = threading.Barrier(8)
    ledgers = [Ledger(url) for _ in range(8)]

    def worker(own: Ledger, mine: list[str]) -> None:
        together.wait()
        for import_id in mine:
            admit(own, import_id, limit=5)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(worker, ledgers, [ids[number::8] for number in range(8)]))

    states = [ledger.imports.get(import_id).state for import_id in ids]
    assert states.count(State.SUBMITTING) == 5
    assert states.count(State.WAITING) == 19
    for own in ledgers:
        own.close()


def test_first_come_first_served_and_nobody_overtakes(ledger: Ledger) -> None:
    first, second, third, fresh = recorded(ledger, 4)
    admit(ledger, first, limit=1)

    assert admit(ledger, second, limit=1) is State.WAITING
    assert admit(ledger, third, limit=1) is State.WAITING
    ledger.transitions.move(first, from_state=State.SUBMITTING, to=State.FAILED)

    assert ledger.transitions.next_in_line(PROJECT, limit=1) == [second]
    assert admit(ledger, fresh, limit=1) is State.WAITING
    assert admit(ledger, third, limit=1) is State.WAITING
    assert admit(ledger, second, limit=1) is State.SUBMITTING


def test_a_higher_priority_goes_first(ledger: Ledger) -> None:
    [busy] = recorded(ledger, 1)
    [normal] = recorded(ledger, 1)
    [low] = recorded(ledger, 1, priority="low")
    [high] = recorded(ledger, 1, priority="high")
    admit(ledger, busy, limit=1)
    for import_id in (normal, low, high):
        admit(ledger, import_id, limit=1)
    ledger.transitions.move(busy, from_state=State.SUBMITTING, to=State.FAILED)

    assert ledger.transitions.next_in_line(PROJECT, limit=1) == [high]
    assert ledger.transitions.next_in_line(PROJECT, limit=3) == [high, normal, low]


def test_who_waits_knows_the_place_and_moving_up_is_no_event(ledger: Ledger) -> None:
    busy, second, third = recorded(ledger, 3)
    for import_id in (busy, second, third):
        admit(ledger, import_id, limit=1)
    assert ledger.imports.get(third).reason == "1 active, place 2"
    assert ledger.imports.get(third).waits_for is WaitsFor.SLOT

    ledger.transitions.move(second, from_state=State.WAITING, to=State.CANCELED)
    admit(ledger, third, limit=1)

    assert ledger.imports.get(third).reason == "1 active, place 1"
    assert len(ledger.imports.events(third)) == 2


def test_who_waits_for_something_else_holds_up_nobody(ledger: Ledger) -> None:
    hold, other = recorded(ledger, 2)
    ledger.transitions.move(
        hold, from_state=State.QUEUED, to=State.WAITING, project=PROJECT, waits_for=WaitsFor.PERSON
    )

    assert admit(ledger, other, limit=1) is State.SUBMITTING


def test_projects_do_not_share_their_slots(ledger: Ledger) -> None:
    mine, theirs = recorded(ledger, 2)

    assert admit(ledger, mine, limit=1) is State.SUBMITTING
    assert admit(ledger, theirs, limit=1, project="p-2") is State.SUBMITTING


def test_an_import_that_was_moved_meanwhile_is_not_admitted(ledger: Ledger) -> None:
    [import_id] = recorded(ledger, 1)
    version = ledger.imports.get(import_id).version
    ledger.transitions.move(import_id, from_state=State.QUEUED, to=State.CANCELED)

    assert raises_stale(
        lambda: ledger.transitions.admit(
            import_id, version=version, project=PROJECT, limit=1, why=in_line
        )
    )


def raises_stale(call: Callable[[], Any]) -> bool:
    try:
        call()
    except ConcurrentTransition:
        return True
    return False


def test_two_workers_never_have_more_jobs_than_allowed_and_waste_no_slot() -> None:
    settings = {"MAX_ACTIVE_PER_PROJECT": "3", "POLL_MAX_S": "30"}
    with Running.start(workers=2, settings=settings) as running:
        ids = [running.client.submit(a_body(name=f"image-{number}")) for number in range(12)]
        until(lambda: set(running.states(ids)) == {"SUCCEEDED"}, "all ended", seconds=60)
        peak = running.cloud_state()["peak_active"]
        waits = waits_for_a_free_slot(running, ids)

    assert list(peak.values()) == [3]
    # The fallback would be a wait of POLL_MAX_S.
    print(f"a freed slot was taken after {max(waits):.2f} s at most")
    assert max(waits) < 5


def waits_for_a_free_slot(running: Running, ids: list[str]) -> list[float]:
    """Seconds from each end of an import to the next start, while others waited."""
    events = [event for import_id in ids for event in running.client.events(import_id)]
    starts = sorted(event.at for event in events if event.to_state is State.SUBMITTING)
    ends = sorted(event.at for event in events if event.to_state is State.SUCCEEDED)
    return [(start - end).total_seconds() for start, end in zip(starts[3:], ends[:9], strict=True)]
