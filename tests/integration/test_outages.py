"""Stopping and outages: what is in hand ends, nothing is redone, and who waits comes back alone."""

import time
from collections.abc import Iterator

import pytest
from builders import a_body
from running import Running, restart_redis, until, without_cloud, without_redis


@pytest.fixture
def running() -> Iterator[Running]:
    with Running.start(settings={"READ_TIMEOUT_S": "3"}) as running:
        yield running


def kinds(running: Running, import_id: str) -> list[str]:
    return [str(event.to_state) for event in running.client.events(import_id) if event.to_state]


def test_sigterm_lets_what_is_in_hand_end_and_nothing_is_redone(running: Running) -> None:
    running.cloud(latency_s=2)
    ids = [running.client.submit(a_body(name=f"image-{number}")) for number in range(4)]
    until(lambda: set(running.states(ids)) == {"SUBMITTING"}, "all are being asked for")
    [worker] = running.stack.workers

    began = time.monotonic()
    running.stack.stop(worker)
    took = time.monotonic() - began
    running.cloud(latency_s=0)
    after_stop = running.states(ids)
    running.stack.worker()
    until(lambda: set(running.states(ids)) == {"SUCCEEDED"}, "all ended", seconds=60)

    assert took < 15
    assert set(after_stop) == {"RUNNING"}
    assert "UNCERTAIN" not in {state for import_id in ids for state in kinds(running, import_id)}
    assert running.cloud_state()["creates"] == 4


def test_a_worker_waits_for_redis_and_goes_on_by_itself(running: Running) -> None:
    running.cloud(job_seconds=(4, 5))
    ids = [running.client.submit(a_body(name=f"image-{number}")) for number in range(5)]
    until(lambda: set(running.states(ids)) == {"RUNNING"}, "all run")
    [worker] = running.stack.workers

    restart_redis(running.stack, pause_s=10)

    until(lambda: set(running.states(ids)) == {"SUCCEEDED"}, "all ended", seconds=90)
    assert running.stack.workers == [worker]
    assert worker.running
    assert [running.images_of(import_id) for import_id in ids] == [1] * 5


@pytest.mark.parametrize("pause_s", [0, 4])
def test_a_worker_outlives_a_redis_that_goes_with_requests_in_hand(
    running: Running, pause_s: float
) -> None:
    """They end when Redis is back, or while it is away: either way they cannot be acknowledged."""
    running.cloud(latency_s=2)
    ids = [running.client.submit(a_body(name=f"image-{number}")) for number in range(5)]
    until(lambda: set(running.states(ids)) == {"SUBMITTING"}, "all are being asked for")
    [worker] = running.stack.workers

    restart_redis(running.stack, pause_s)
    running.cloud(latency_s=0)

    until(lambda: set(running.states(ids)) == {"SUCCEEDED"}, "all ended", seconds=90)
    assert running.stack.workers == [worker]
    assert worker.running
    assert [running.images_of(import_id) for import_id in ids] == [1] * 5


def test_a_cloud_that_hangs_for_a_while_fails_no_import_and_doubles_none(running: Running) -> None:
    """The request waits in the cloud's socket and is acted on when it comes back: long after the
    worker has given up waiting for the answer."""
    running.cloud(job_seconds=(2, 3))
    before = running.client.submit(a_body(name="before"))
    until(lambda: running.states([before]) == ["RUNNING"], "it runs")

    with without_cloud(running.stack):
        during = running.client.submit(a_body(name="during"))
        until(lambda: running.states([during]) == ["UNCERTAIN"], "its answer did not come")
        reason = running.client.get(during).reason or ""

    until(lambda: running.states([before, during]) == ["SUCCEEDED"] * 2, "both ended", seconds=60)
    assert "the response to the request was lost" in reason
    assert [running.images_of(import_id) for import_id in (before, during)] == [1, 1]


def test_a_client_that_lives_on_records_what_it_is_asked_while_redis_is_gone(
    running: Running,
) -> None:
    before = running.client.submit(a_body(name="before"))

    with without_redis(running.stack):
        during = running.client.submit_import(a_body(name="during"))
    after = running.client.submit(a_body(name="after"))

    ids = [before, during.record.id, after]
    until(lambda: set(running.states(ids)) == {"SUCCEEDED"}, "all ended", seconds=60)
    assert not during.queued
    # A subscription for each import would grow without end.
    assert running.redis.pubsub_channels("celery-task-meta-*") == []


def test_without_a_ledger_a_submission_is_clearly_refused(running: Running) -> None:
    nowhere = "postgresql+psycopg://nobody@127.0.0.1:1/none"
    running.stack.env["IMS_IMPORT_LEDGER_URL"] = nowhere

    done = running.stack.run("submit", "images:good.qcow2", "--name", "a", "--min-disk", "40")

    assert done.returncode == 5
    assert done.stdout == ""
    assert "ledger: " in done.stderr
    assert running.cloud_state()["creates"] == 0
