"""A ledger that the workers do not use records no request, and no worker runs with it."""

import json
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
import uvicorn
from builders import a_body
from running import Running, until

from ims_config.names import LEDGER_KEY
from ims_ledger import Ledger, LedgerNotCurrent, open_ledger
from ims_producer import Client
from ims_producer.api.app import make_app
from ims_sandbox.process import free_port

SUBMIT = ("submit", "images:good.qcow2", "--name", "good", "--min-disk", "40")


class OtherLedger:
    """A machine that knows the Redis of the stack and has its own SQLite file."""

    def __init__(self, running: Running, folder: Path) -> None:
        self._stack = running.stack
        self.url = f"sqlite:///{folder / 'other.db'}"
        self.env = {"IMS_IMPORT_LEDGER_URL": self.url}
        self.ledger: Ledger = open_ledger(self.url)

    def run(self, *argv: str, **env: str) -> "subprocess.CompletedProcess[str]":
        return self._stack.run(*argv, env=self.env | env)

    def is_empty(self) -> bool:
        return not self.ledger.imports.counts()

    @contextmanager
    def api(self) -> Iterator[str]:
        port = free_port()
        app = make_app(self._stack.settings(ledger_url=self.url), auth=False)
        server = uvicorn.Server(uvicorn.Config(app, port=port, log_config=None))
        thread = threading.Thread(target=server.run)
        thread.start()
        until(lambda: server.started, "the API runs")
        yield f"http://127.0.0.1:{port}"
        server.should_exit = True
        thread.join()


@pytest.fixture
def other(running: Running, tmp_path: Path) -> Iterator[OtherLedger]:
    machine = OtherLedger(running, tmp_path)
    yield machine
    machine.ledger.close()


def check_of(done: "subprocess.CompletedProcess[str]") -> Any:
    return next(check for check in json.loads(done.stdout) if check["name"] == "current ledger")


def test_a_request_in_another_ledger_is_refused_with_the_options(other: OtherLedger) -> None:
    done = other.run(*SUBMIT)

    assert done.returncode == 5
    assert "nothing was recorded" in done.stderr
    for option in ("IMS_IMPORT_LEDGER_URL", "IMS_IMPORT_API_URL", "ims-import ledger adopt"):
        assert option in done.stderr
    assert other.is_empty()


def test_no_method_gives_work_to_workers_that_use_another_ledger(
    running: Running, other: OtherLedger
) -> None:
    record, _ = other.ledger.imports.adopt("job-1", name="adopted", cloud=None, by=None)
    with Client(running.stack.settings(ledger_url=other.url)) as client:
        for method in (
            lambda: client.submit(a_body()),
            lambda: client.adopt("job-2", name="second"),
            lambda: client.retry(record.id),
            lambda: client.resolve(record.id),
        ):
            with pytest.raises(LedgerNotCurrent):
                method()
        assert [found.id for found in client.list()] == [record.id]


def test_doctor_compares_the_ledger_with_that_of_the_workers(
    running: Running, other: OtherLedger
) -> None:
    same, different = running.stack.run("doctor", "--json"), other.run("doctor", "--json")

    assert (same.returncode, check_of(same)["ok"]) == (0, True)
    assert (different.returncode, check_of(different)["ok"]) == (5, False)
    assert other.ledger.id in check_of(different)["found"]
    assert running.ledger.id in check_of(different)["found"]
    assert "ims-import ledger adopt" in check_of(different)["fix"]


def test_the_api_refuses_with_a_stable_code_and_its_client_exits_with_5(
    other: OtherLedger,
) -> None:
    with other.api() as url:
        refused = requests.post(f"{url}/v1/imports", json=a_body(), timeout=10)
        ready = requests.get(f"{url}/readyz", timeout=10)
        done = other.run(*SUBMIT, IMS_IMPORT_API_URL=url)
        adopting = other.run("ledger", "adopt", IMS_IMPORT_API_URL=url)

    assert (refused.status_code, refused.json()["code"]) == (503, "ledger_not_current")
    assert (ready.status_code, ready.json()["ledger"]) == (503, "not_current")
    assert (done.returncode, "nothing was recorded" in done.stderr) == (5, True)
    assert (adopting.returncode, "ledger adopt: " in adopting.stderr) == (2, True)
    assert other.is_empty()


def test_a_worker_with_another_ledger_does_not_start(running: Running, other: OtherLedger) -> None:
    done = other.run("worker", "--name", "other")

    assert done.returncode == 5
    [sentence] = [line for line in done.stderr.splitlines() if "the worker stops" in line]
    assert running.ledger.id in sentence
    assert "ims-import ledger adopt" in sentence
    assert " ready." not in done.stderr


def test_redis_gets_the_ledger_of_the_workers_again_after_it_lost_it(running: Running) -> None:
    running.redis.delete(LEDGER_KEY)

    until(
        lambda: running.redis.get(LEDGER_KEY) == running.ledger.id.encode(),
        "a worker published its ledger",
    )


@pytest.mark.parametrize("redis", ["unreachable", "empty"])
def test_without_a_published_ledger_requests_are_recorded(
    running: Running, other: OtherLedger, redis: str
) -> None:
    # Database 1 of the same server: no worker has published its ledger there.
    urls = {"unreachable": "redis://127.0.0.1:1/0", "empty": f"{running.redis_url[:-1]}1"}

    done = other.run(*SUBMIT, IMS_IMPORT_REDIS_URL=urls[redis])
    doctor = other.run("doctor", "--json", IMS_IMPORT_REDIS_URL=urls[redis])

    assert done.returncode == 0
    assert other.ledger.imports.get(done.stdout.strip()).state == "QUEUED"
    assert check_of(doctor)["ok"] is None
    assert "not checked" in check_of(doctor)["found"]


def test_an_adopted_ledger_works_and_ends_the_workers_of_the_previous_one(tmp_path: Path) -> None:
    with Running.start() as running:
        other = OtherLedger(running, tmp_path)
        [worker] = running.stack.workers

        adopted = other.run("ledger", "adopt", "--json")
        until(lambda: not worker.running, "the worker of the previous ledger ended")
        refused = running.stack.run(*SUBMIT)
        running.stack.worker(env=other.env)
        done = other.run(*SUBMIT, "--wait")
        checked = other.run("doctor", "--json")

        assert json.loads(adopted.stdout) == {
            "id": other.ledger.id,
            "previous": running.ledger.id,
        }
        assert worker.process.returncode == 5
        assert refused.returncode == 5
        assert (done.returncode, checked.returncode) == (0, 0), done.stderr + checked.stdout
        other.ledger.close()
