"""The scheduler's list of duties, with a clock that the test sets."""

import logging
from collections.abc import Callable
from datetime import timedelta

import pytest
from redis import ConnectionError as RedisConnectionError

from ims_worker.duties import Duties, Duty


class Bench:
    """Duties that record their runs, and what they depend on."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.leads = True
        self.runs: list[str] = []
        self.failing: dict[str, Exception] = {}
        self.duties = Duties(
            [
                self.duty("renew", 1, leader_only=False),
                self.duty("sweep", 10),
                self.duty("send", 0),
            ],
            is_leader=lambda: self.leads,
            now=lambda: self.now,
        )

    def duty(self, name: str, seconds: float, *, leader_only: bool = True) -> Duty:
        return Duty(
            name=name,
            every=timedelta(seconds=seconds),
            action=self.action(name),
            leader_only=leader_only,
        )

    def action(self, name: str) -> Callable[[], None]:
        def run() -> None:
            self.runs.append(name)
            if name in self.failing:
                raise self.failing[name]

        return run

    def after(self, seconds: float) -> list[str]:
        """What runs when so much time has passed."""
        self.now += seconds
        self.runs.clear()
        self.duties.run_due()
        return [*self.runs]


def test_each_duty_runs_in_order_and_at_its_interval() -> None:
    bench = Bench()

    assert bench.after(0) == ["renew", "sweep", "send"]
    assert bench.after(0.5) == ["send"]
    assert bench.after(0.5) == ["renew", "send"]
    assert bench.after(9) == ["renew", "sweep", "send"]


def test_only_the_elected_worker_runs_duties_of_the_leader() -> None:
    bench = Bench()
    bench.leads = False

    assert bench.after(0) == ["renew"]
    assert bench.after(1) == ["renew"]
    bench.leads = True
    assert bench.after(0.1) == ["sweep", "send"]


@pytest.mark.parametrize("error", [RedisConnectionError("down"), ValueError("a defect")])
def test_a_failing_duty_does_not_stop_the_others_and_is_retried_soon(error: Exception) -> None:
    bench = Bench()
    bench.failing = {"sweep": error, "renew": error}

    assert bench.after(0) == ["renew", "sweep", "send"]
    assert bench.after(0.5) == ["send"]
    bench.failing.clear()
    assert bench.after(0.5) == ["renew", "sweep", "send"]
    assert bench.after(1) == ["renew", "send"]


def test_an_outage_is_logged_once_and_its_end_too(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    bench.failing = {"send": RedisConnectionError("down")}

    with caplog.at_level(logging.INFO, "ims_worker.duties"):
        for _ in range(5):
            bench.after(2)
        bench.failing.clear()
        bench.after(2)

    assert [record.message for record in caplog.records] == [
        "scheduler duty failed",
        "scheduler duty works again",
    ]
