"""The commands over HTTP: with a URL and a key only; neither ledger nor Redis is reachable."""

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

UNREACHABLE = {
    "IMS_IMPORT_LEDGER_URL": "postgresql+psycopg://nobody@127.0.0.1:1/none",
    "IMS_IMPORT_REDIS_URL": "redis://127.0.0.1:1/0",
}


@pytest.fixture
def remote(running: Running) -> dict[str, str]:
    """The environment of a remote user."""
    api = running.stack.api
    assert api is not None
    reached = {"IMS_IMPORT_API_URL": api.url, "IMS_IMPORT_API_KEY": api.key}
    return running.stack.env | UNREACHABLE | reached


class Ims:
    """The command line with its own environment."""

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
def ims(running: Running, remote: dict[str, str]) -> Ims:
    return Ims(running, remote)


SUBMIT = ("submit", "images:good.qcow2", "--min-disk", "40")


def test_commands_print_the_same_as_with_direct_access(running: Running, ims: Ims) -> None:
    done = ims(*SUBMIT, "--name", "away", "--wait", "--json")
    import_id = json.loads(done.stdout)["id"]

    assert json.loads(done.stdout)["state"] == "SUCCEEDED"
    for command in (("show", import_id, "--json"), ("list", "--name", "away", "--json")):
        assert ims(*command).stdout == running.stack.run(*command).stdout
    assert "SUBMITTING → RUNNING" in ims("show", import_id, "--events").stdout


def test_a_failed_import_exits_with_1_and_can_be_retried(ims: Ims) -> None:
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


def test_administration(running: Running, ims: Ims) -> None:
    assert "images that no import needs" in ims("gc").stdout
    assert "no entry 'nosuch'" in ims("gc", "--cloud", "nosuch", expected=1).stderr
    assert "imports resumed for the default cloud: 0" in ims("resume").stdout
    assert "that would be deleted: 0" in ims("prune", "--older-than", "90d", "--dry-run").stdout
    created = json.loads(ims("keys", "create", "--name", "x", "--scope", "read", "--json").stdout)
    assert created["id"] in ims("keys", "list").stdout
    assert "is revoked" in ims("keys", "revoke", created["id"]).stdout
    ims("keys", "revoke", "abc", expected=2)
    checks = ims("doctor").stdout
    assert "ok    api" in checks
    assert "default cloud, login" in checks
    assert running.client.keys()[-1].revoked_at is not None


def test_a_missing_key_or_scope_exits_with_4(
    running: Running, ims: Ims, remote: dict[str, str]
) -> None:
    anonymous = Ims(running, {k: v for k, v in remote.items() if k != "IMS_IMPORT_API_KEY"})
    reader = json.loads(ims("keys", "create", "--name", "r", "--scope", "read", "--json").stdout)
    limited = Ims(running, remote | {"IMS_IMPORT_API_KEY": reader["key"]})

    assert "the API key is missing" in anonymous("list", expected=4).stderr
    assert "lacks the required scope submit" in limited(*SUBMIT, "--name", "a", expected=4).stderr
    assert "api" in anonymous("doctor", expected=4).stdout


def test_plan_uses_only_the_ledger_for_a_cloud_that_the_key_does_not_allow(
    running: Running, ims: Ims, remote: dict[str, str], tmp_path: Path
) -> None:
    create = ("keys", "create", "--name", "l", "--scope", "read", "--cloud", "sandbox", "--json")
    created = json.loads(ims(*create).stdout)
    limited = Ims(running, remote | {"IMS_IMPORT_API_KEY": created["key"]})
    file = tmp_path / "images.yaml"
    file.write_text(yaml.safe_dump({"version": 1, "images": [a_body(name="not-asked")]}))

    done = limited("plan", str(file))

    assert "new        not-asked" in done.stdout
    assert "note: images of the default cloud are unknown: " in done.stderr


def test_an_unreachable_api_exits_with_5(running: Running, remote: dict[str, str]) -> None:
    unreachable = Ims(running, remote | {"IMS_IMPORT_API_URL": "http://127.0.0.1:1"})

    done = unreachable(*SUBMIT, "--name", "a", expected=5)

    assert "API http://127.0.0.1:1" in done.stderr
    assert done.stdout == ""


def test_another_service_at_the_url_is_reported(running: Running, remote: dict[str, str]) -> None:
    wrong = Ims(running, remote | {"IMS_IMPORT_API_URL": running.stack.cloud_url})

    assert "not a response of this version's API" in wrong("list", expected=5).stderr


@contextmanager
def losing_the_first_response(port: int) -> Iterator[str]:
    """A proxy that forwards every request and drops the first response."""
    lost = threading.Event()

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            request = self.request.recv(65536)
            with socket.create_connection(("127.0.0.1", port), timeout=10) as upstream:
                upstream.sendall(request.replace(b"keep-alive", b"close"))
                response = b"".join(iter(lambda: upstream.recv(65536), b""))
            if lost.is_set():
                self.request.sendall(response)
            lost.set()

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
    assert lost.is_set()


def test_a_retry_after_a_lost_response_creates_no_second_import(running: Running) -> None:
    api = running.stack.api
    assert api is not None
    port = int(api.url.rpartition(":")[2])
    with losing_the_first_response(port) as url:
        settings = running.stack.settings(api_url=url, api_key=api.key)
        with Client(settings) as client:
            submission = client.submit_import(a_body(name="once"))

    assert not submission.created
    assert [record.id for record in running.client.list(name="once")] == [submission.record.id]
