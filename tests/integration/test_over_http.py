"""Every command over HTTP: with an address and a key alone, neither ledger nor Redis in reach."""

import json
import socket
import socketserver
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from builders import a_body
from running import Running, until

from ims_producer import Client

NOWHERE = {
    "IMS_IMPORT_LEDGER_URL": "postgresql+psycopg://nobody@127.0.0.1:1/none",
    "IMS_IMPORT_REDIS_URL": "redis://127.0.0.1:1/0",
}


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with Running.start(api=True) as running:
        yield running


@pytest.fixture
def away(running: Running) -> dict[str, str]:
    """What somebody elsewhere has in the environment."""
    api = running.stack.api
    assert api is not None
    reached = {"IMS_IMPORT_API_URL": api.url, "IMS_IMPORT_API_KEY": api.key}
    return running.stack.env | NOWHERE | reached


class Ims:
    """The command line with an environment of its own."""

    def __init__(self, running: Running, env: dict[str, str]) -> None:
        self.running, self.env = running, env

    def __call__(self, *argv: str, expected: int = 0) -> "subprocess.CompletedProcess[str]":
        ours = self.running.stack.env
        try:
            self.running.stack.env = self.env
            done: subprocess.CompletedProcess[str] = self.running.stack.run(*argv)
        finally:
            self.running.stack.env = ours
        assert done.returncode == expected, done.stdout + done.stderr
        return done


@pytest.fixture
def ims(running: Running, away: dict[str, str]) -> Ims:
    return Ims(running, away)


SUBMIT = ("submit", "images:good.qcow2", "--min-disk", "40")


def test_submit_waits_and_says_the_same_as_where_the_ledger_is(running: Running, ims: Ims) -> None:
    done = ims(*SUBMIT, "--name", "away", "--wait", "--json")
    import_id = json.loads(done.stdout)["id"]

    assert json.loads(done.stdout)["state"] == "SUCCEEDED"
    for command in (("show", import_id, "--json"), ("list", "--name", "away", "--json")):
        assert ims(*command).stdout == running.stack.run(*command).stdout
    assert "SUBMITTING → RUNNING" in ims("show", import_id, "--events").stdout


def test_a_failed_import_ends_with_1_and_can_be_tried_again(ims: Ims) -> None:
    broken = ("submit", "images:broken.qcow2", "--min-disk", "40", "--name", "broken")
    done = ims(*broken, "--wait", expected=1)
    import_id = done.stdout.split()[0]

    assert "IMG.0057" in done.stderr
    assert "queued again, attempt 2" in ims("retry", import_id).stdout
    ims("watch", import_id, expected=1)
    assert "is FAILED: it has ended" in ims("cancel", import_id, expected=2).stderr
    assert "only UNCERTAIN" in ims("resolve", import_id, "--fail", expected=2).stderr


def test_cancel_and_adopt(running: Running, ims: Ims) -> None:
    running.cloud(job_seconds=(8, 8))
    import_id = ims(*SUBMIT, "--name", "unwanted").stdout.strip()
    until(lambda: running.states([import_id]) == ["RUNNING"], "it runs")
    job = running.client.get(import_id).job_id or ""

    assert "will be canceled" in ims("cancel", import_id, "--leave-image").stdout
    first, again = (ims("adopt", job, "--name", "adopted").stdout for _ in range(2))
    running.cloud(job_seconds=(0.5, 1))

    assert first == again
    until(lambda: running.states([import_id]) == ["CANCELED"], "it is canceled")


def test_manifests(ims: Ims, tmp_path: Path) -> None:
    file = tmp_path / "images.yaml"
    images = [a_body(name="m-1"), a_body(name="m-2")]
    file.write_text(yaml.safe_dump({"version": 1, "name": "away", "images": images}))

    planned = ims("plan", str(file)).stdout
    ims("apply", str(file), "--wait")
    file.write_text(yaml.safe_dump({"version": 1, "name": "away", "images": images[:1]}))
    again = ims("plan", str(file), "--prune-plan")

    assert [line.split()[0] for line in planned.splitlines()] == ["new", "new"]
    assert [line.split()[0] for line in again.stdout.splitlines()] == ["unchanged"]
    assert "dropped   m-2" in again.stderr


def test_what_operators_do(running: Running, ims: Ims) -> None:
    assert "images that no import needs" in ims("gc").stdout
    assert "no entry 'nosuch'" in ims("gc", "--cloud", "nosuch", expected=1).stderr
    assert "imports resumed for the default cloud: 0" in ims("resume").stdout
    assert "that would be deleted: 0" in ims("prune", "--older-than", "90d", "--dry-run").stdout
    made = json.loads(ims("keys", "create", "--name", "x", "--scope", "read", "--json").stdout)
    assert made["id"] in ims("keys", "list").stdout
    assert "is revoked" in ims("keys", "revoke", made["id"]).stdout
    ims("keys", "revoke", "abc", expected=2)
    checks = ims("doctor").stdout
    assert "ok    api" in checks
    assert "default cloud, login" in checks
    assert running.client.keys()[-1].revoked_at is not None


def test_no_key_a_wrong_key_and_a_key_without_the_scope_are_4(
    running: Running, ims: Ims, away: dict[str, str]
) -> None:
    nobody = Ims(running, {k: v for k, v in away.items() if k != "IMS_IMPORT_API_KEY"})
    reader = json.loads(ims("keys", "create", "--name", "r", "--scope", "read", "--json").stdout)
    limited = Ims(running, away | {"IMS_IMPORT_API_KEY": reader["key"]})

    assert "the API key is missing" in nobody("list", expected=4).stderr
    assert "lacks the required scope submit" in limited(*SUBMIT, "--name", "a", expected=4).stderr
    assert "api" in nobody("doctor", expected=4).stdout


def test_a_cloud_that_the_api_does_not_ask_is_said_and_the_ledger_is_believed(
    running: Running, ims: Ims, away: dict[str, str], tmp_path: Path
) -> None:
    create = ("keys", "create", "--name", "l", "--scope", "read", "--cloud", "sandbox", "--json")
    made = json.loads(ims(*create).stdout)
    limited = Ims(running, away | {"IMS_IMPORT_API_KEY": made["key"]})
    file = tmp_path / "images.yaml"
    file.write_text(yaml.safe_dump({"version": 1, "images": [a_body(name="not-asked")]}))

    done = limited("plan", str(file))

    assert "new        not-asked" in done.stdout
    assert "note: images of the default cloud are unknown: " in done.stderr


def test_an_api_that_is_not_there_is_5(running: Running, away: dict[str, str]) -> None:
    nowhere = Ims(running, away | {"IMS_IMPORT_API_URL": "http://127.0.0.1:1"})

    done = nowhere(*SUBMIT, "--name", "a", expected=5)

    assert "API http://127.0.0.1:1" in done.stderr
    assert done.stdout == ""


def test_something_else_at_the_address_is_said(running: Running, away: dict[str, str]) -> None:
    wrong = Ims(running, away | {"IMS_IMPORT_API_URL": running.stack.cloud_url})

    assert "not a response of this version's API" in wrong("list", expected=5).stderr


@contextmanager
def losing_the_first_answer(port: int) -> Iterator[str]:
    """A proxy that passes on every request and drops the first answer."""
    lost = threading.Event()

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            asked = self.request.recv(65536)
            with socket.create_connection(("127.0.0.1", port), timeout=10) as upstream:
                upstream.sendall(asked.replace(b"keep-alive", b"close"))
                answer = b"".join(iter(lambda: upstream.recv(65536), b""))
            if lost.is_set():
                self.request.sendall(answer)
            lost.set()

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
    assert lost.is_set()


def test_asking_again_after_a_lost_answer_makes_no_second_import(running: Running) -> None:
    api = running.stack.api
    assert api is not None
    port = int(api.url.rpartition(":")[2])
    with losing_the_first_answer(port) as url:
        settings = running.stack.settings(api_url=url, api_key=api.key)
        with Client(settings) as client:
            asked = client.submit_import(a_body(name="once"))

    assert not asked.created
    assert [record.id for record in running.client.list(name="once")] == [asked.record.id]
