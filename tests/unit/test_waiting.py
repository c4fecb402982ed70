"""The wait loop: when it ends, how often it reads, and what it reports."""

import time
from datetime import UTC, datetime
from typing import Any

import pytest

from ims_config.records import ErrorClass, Failure, ImportResult, Progress, State, WaitsFor
from ims_producer.client import Client
from ims_producer.waiting import LONGEST_PAUSE_S, StillTracked, wait_until_settled

ID = "6f2c8f0e"
REFUSED = Failure(code="IAM.401", message="no", error_class=ErrorClass.AUTH, hint="Correct it.")
RUNNING = State.RUNNING
SUCCEEDED = State.SUCCEEDED


def a_result(state: State, **fields: Any) -> ImportResult:
    return ImportResult(
        id=ID, state=state, kind="system", name="ubuntu", image_url="b:k",
        created_at=datetime(2026, 11, 25, tzinfo=UTC), request={}, **fields,
    )  # fmt: skip


class Clock:
    """Time that passes only in sleep."""

    def __init__(self) -> None:
        self.now, self.pauses = 0.0, list[float]()

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.pauses.append(seconds)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "sleep", clock.sleep)
    monkeypatch.setattr(time, "monotonic", clock.monotonic)
    return clock


class Reads:
    """Returns prepared results, the last one for ever."""

    def __init__(self, *results: ImportResult) -> None:
        self.results, self.count = [*results], 0

    def get(self, _: str) -> ImportResult:
        self.count += 1
        return self.results.pop(0) if len(self.results) > 1 else self.results[0]


@pytest.mark.parametrize(
    "result",
    [
        a_result(State.SUCCEEDED),
        a_result(State.FAILED),
        a_result(State.CANCELED),
        a_result(State.UNCERTAIN, waits_for=WaitsFor.PERSON),
        a_result(State.WAITING, waits_for=WaitsFor.CREDENTIALS, error=REFUSED),
    ],
)
def test_waiting_ends_when_the_import_settles(result: ImportResult) -> None:
    assert wait_until_settled(Reads(a_result(RUNNING), result).get, [ID]) == [result]


def test_waiting_ends_at_the_timeout_with_the_current_record(clock: Clock) -> None:
    reads = Reads(a_result(RUNNING))

    [result] = wait_until_settled(reads.get, [ID], timeout=10)

    assert result.state is RUNNING
    assert clock.now == pytest.approx(10)


def test_a_timeout_of_zero_reads_once() -> None:
    reads = Reads(a_result(RUNNING))

    wait_until_settled(reads.get, [ID], timeout=0)

    assert reads.count == 1


def test_pauses_grow_to_a_limit(clock: Clock) -> None:
    wait_until_settled(Reads(a_result(RUNNING)).get, [ID], timeout=60)

    *grown, _rest = clock.pauses
    assert grown == sorted(grown)
    assert max(grown) == LONGEST_PAUSE_S


def test_progress_is_reported_after_each_read_and_never_moves_backwards() -> None:
    percents = (10, 60, None, 30, 99)
    reads = Reads(
        *(a_result(RUNNING, progress=Progress(percent=percent)) for percent in percents),
        a_result(SUCCEEDED),
    )
    reported: list[float | None] = []

    wait_until_settled(
        reads.get, [ID], on_progress=lambda results: reported.append(results[0].progress.percent)
    )

    assert reported == [10, 60, 60, 60, 99, None]


def test_an_import_that_has_ended_is_not_read_again() -> None:
    ended, running = (
        Reads(a_result(SUCCEEDED)),
        Reads(*[a_result(RUNNING)] * 5, a_result(SUCCEEDED)),
    )
    running.results = [result.model_copy(update={"id": "other"}) for result in running.results]

    wait_until_settled(
        lambda import_id: (ended if import_id == ID else running).get(import_id), [ID, "other"]
    )

    assert ended.count == 1


class AnImport(Client):
    """A client whose only import is prepared."""

    def __init__(self, result: ImportResult) -> None:
        super().__init__()
        self._result = result

    def get(self, import_id: str) -> ImportResult:
        del import_id
        return self._result


def test_the_client_raises_still_tracked_at_the_timeout() -> None:
    with pytest.raises(StillTracked) as caught:
        AnImport(a_result(RUNNING)).wait(ID, timeout=1)

    assert caught.value.record.state is RUNNING


def test_the_client_returns_an_import_that_needs_a_person() -> None:
    result = a_result(State.UNCERTAIN, waits_for=WaitsFor.PERSON)

    assert AnImport(result).wait(ID).needs_a_person
