"""While IMS refuses polls, every view of a running import says so; afterwards it goes on."""

import json
from collections.abc import Iterator

import pytest
import requests
from builders import a_body
from celery.result import AsyncResult
from running import Running, until, without_redis

from ims_sandbox.stack import CLOUD


@pytest.fixture
def running() -> Iterator[Running]:
    with Running.start(settings={"POLL_MAX_S": "1"}) as running:
        yield running


def test_every_view_shows_that_polls_fail_until_they_succeed(running: Running) -> None:
    running.cloud(job_seconds=(120, 120), show_percent=True)
    import_id = running.client.submit(a_body(name="polled-in-vain"))
    until(lambda: running.client.get(import_id).progress.percent is not None, "progress is known")
    before = running.client.get(import_id)
    fault = {"kind": "refused", "call": "job", "code": "IMG.0026", "times": None}
    requests.post(f"{running.stack.cloud_url}/admin/faults", json=fault, timeout=10)

    until(lambda: _count(running, import_id) >= 3, "polls failed three times")
    failing = running.client.get(import_id)
    shown = json.loads(running.stack.run("show", import_id, "--json").stdout)
    listed = running.stack.run("list").stdout
    doctor = running.stack.run("doctor")
    flower = str(AsyncResult(import_id, app=running.stack.app).result)
    with without_redis(running.stack):
        unknown = running.client.get(import_id)
    running.reset_cloud()
    until(lambda: running.client.get(import_id).poll_error is None, "a poll succeeded", seconds=60)
    after = running.client.get(import_id)
    kinds = [event.kind for event in running.client.events(import_id)]

    assert (before.poll_error, failing.state, failing.progress.percent) == (None, "RUNNING", None)
    assert failing.poll_error is not None
    assert failing.last_poll_at is not None
    assert failing.next_poll_at is not None
    assert failing.poll_error.since < failing.last_poll_at < failing.next_poll_at
    assert (shown["poll_error"]["code"], shown["poll_error"]["class"]) == ("IMG.0026", "hold")
    assert "polls fail since" in listed
    assert "IMG.0026" in listed
    assert doctor.returncode == 5
    assert "imports: 1, polls fail since" in doctor.stdout
    assert "IMG.0026" in flower
    assert "%" not in flower
    assert unknown.poll_error is not None
    assert (unknown.poll_error.since, unknown.poll_error.count) == (failing.poll_error.since, None)
    assert (unknown.last_poll_at, unknown.next_poll_at) == (None, None)
    assert after.progress.percent is not None
    assert (kinds.count("unreachable"), kinds.count("reachable")) == (1, 1)


def test_resume_polls_at_once_under_any_name_of_the_credentials() -> None:
    """Without resume, the next polls are five minutes away."""
    with Running.start(settings={"POLL_FIRST_S": "300", "POLL_MAX_S": "300"}) as running:
        fault = {"kind": "refused", "call": "job", "code": "IMG.0026", "times": None}
        requests.post(f"{running.stack.cloud_url}/admin/faults", json=fault, timeout=10)
        ids = [
            running.client.submit(a_body(name=f"held-up-{cloud}", cloud=cloud))
            for cloud in (None, CLOUD)
        ]
        until(lambda: all(_count(running, import_id) for import_id in ids), "polls fail")
        running.reset_cloud()

        resumed = running.stack.run("resume", "--cloud", CLOUD)
        until(lambda: not any(_count(running, import_id) for import_id in ids), "polls succeed")

    assert f"imports resumed for {CLOUD}: 2 (2 RUNNING)" in resumed.stdout


def _count(running: Running, import_id: str) -> int:
    error = running.client.get(import_id).poll_error
    return (error and error.count) or 0
