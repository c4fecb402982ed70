"""The command line against real workers: waiting, idempotency keys, watching and the doctor."""

import json
import os
import pty
import re
import subprocess
import sys
from contextlib import suppress
from typing import Any

import pytest
from running import Running, until

GOOD = ("images:good.qcow2", "--name", "good", "--min-disk", "40")
BROKEN = ("images:broken.qcow2", "--name", "broken", "--min-disk", "40")


def test_submit_prints_the_id_and_nothing_else_on_stdout(running: Running) -> None:
    done = running.stack.run("submit", *GOOD, "--wait")

    assert done.returncode == 0
    record = running.client.get(done.stdout.strip())
    assert record.state == "SUCCEEDED"
    assert f"image {record.image_id}" in done.stderr


def test_waiting_for_a_failure_exits_with_1_and_prints_reason_and_hint(running: Running) -> None:
    done = running.stack.run("submit", *BROKEN, "--wait", "--json")

    assert done.returncode == 1
    record = json.loads(done.stdout)
    assert (record["state"], record["error"]["code"]) == ("FAILED", "IMG.0057")
    assert "IMG.0057: " in done.stderr
    assert "What to do: " in done.stderr


def test_a_timeout_exits_with_3_and_prints_how_to_continue(running: Running) -> None:
    running.cloud(job_seconds=(4, 4))

    stopped = running.stack.run("submit", *GOOD, "--wait", "--timeout", "0.5")
    import_id = stopped.stdout.strip()
    watched = running.stack.run("watch", import_id)

    running.cloud(job_seconds=(0.5, 1))
    assert stopped.returncode == 3
    assert f"ims-import watch {import_id}" in stopped.stderr
    assert watched.returncode == 0


def test_the_same_key_never_creates_a_second_import(running: Running) -> None:
    first, again = (running.stack.run("submit", *GOOD, "--key", "build-1") for _ in range(2))
    other = running.stack.run("submit", *BROKEN, "--key", "build-1")

    assert first.stdout == again.stdout
    assert "build-1" in again.stderr
    assert other.returncode == 2
    assert first.stdout.strip() in other.stderr


def test_the_bar_on_a_terminal_only_moves_forward_and_is_full_only_at_the_end(
    running: Running,
) -> None:
    running.cloud(job_seconds=(3, 3))

    shown, code = on_a_terminal(running, "submit", *GOOD, "--wait")

    running.cloud(job_seconds=(0.5, 1))
    percents = [int(match) for match in re.findall(r"(\d+) %", shown)]
    assert code == 0
    assert len(set(percents)) > 2
    assert percents == sorted(percents)
    assert shown.index("100 %") > shown.index("SUCCEEDED")


def on_a_terminal(running: Running, *argv: str) -> tuple[str, int]:
    """The output of the program on a terminal, and its exit code."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "ims_producer", *argv],
        env=running.stack.env | {"TERM": "xterm", "COLUMNS": "120"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        shown = b""
        # Linux reports EIO when the other side is closed.
        with suppress(OSError):
            while part := os.read(ours, 65536):
                shown += part
    os.close(ours)
    return shown.decode(), process.returncode


def test_refused_credentials_end_the_wait_with_4_and_tracking_continues() -> None:
    with Running.start(settings={"POLL_FIRST_S": "1"}, wrong_password=True) as running:
        done = running.stack.run("submit", *GOOD, "--wait", "--timeout", "30")
        doctor = running.stack.run("doctor")

    assert done.returncode == 4
    assert "still tracked" in done.stderr
    assert doctor.returncode == 4
    assert re.search(r"FAIL +default cloud, login", doctor.stdout)


# --- doctor ---------------------------------------------------------------------------------


def checks(running: Running, *argv: str, **settings: str) -> tuple[int, dict[str, Any]]:
    env = running.stack.env | {f"IMS_IMPORT_{name}": value for name, value in settings.items()}
    done = subprocess.run(
        [sys.executable, "-m", "ims_producer", "doctor", "--json", *argv],
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    found = {check["name"]: check for check in json.loads(done.stdout)}
    return done.returncode, found


def test_doctor_passes_all_checks_on_a_healthy_stack(running: Running) -> None:
    code, found = checks(running)

    assert code == 0
    assert [check["ok"] for check in found.values()] == [True] * 7
    assert "1 online" in found["workers"]["found"]
    assert "of 1000 private images used" in found["default cloud, quota"]["found"]


def test_doctor_reports_a_cloud_that_the_worker_does_not_know(running: Running) -> None:
    code, found = checks(running, "--cloud", "nope")

    assert code != 0
    assert "no entry 'nope'" in found["cloud nope, login"]["found"]
    assert found["cloud nope, login"]["fix"]


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"REDIS_URL": "redis://127.0.0.1:1/0"}, "redis"),
        ({"LEDGER_URL": "postgresql+psycopg://nobody:s3cret@127.0.0.1:1/none"}, "ledger"),
        ({"BROKER_URL": "amqp://guest:s3cret@127.0.0.1:1//"}, "broker"),
    ],
    ids=["redis", "ledger", "broker"],
)
def test_doctor_names_an_unreachable_service_and_the_fix(
    running: Running, settings: dict[str, str], name: str
) -> None:
    code, found = checks(running, **settings)

    assert code == 5
    assert found[name]["ok"] is False
    assert "127.0.0.1:1" in found[name]["found"]
    assert f"IMS_IMPORT_{next(iter(settings))}" in found[name]["fix"]
    assert "s3cret" not in json.dumps(found)


def test_doctor_reports_missing_workers_and_skips_the_cloud_checks(running: Running) -> None:
    [worker] = running.stack.workers
    running.stack.stop(worker)

    code, found = checks(running)

    running.stack.worker()
    assert code == 5
    assert "ims-import worker" in found["workers"]["fix"]
    assert found["default cloud"]["ok"] is None


def test_an_import_submitted_without_a_broker_is_recorded_and_found_by_a_worker(
    running: Running,
) -> None:
    env = running.stack.env | {"IMS_IMPORT_BROKER_URL": "redis://127.0.0.1:1/0"}

    done = subprocess.run(
        [sys.executable, "-m", "ims_producer", "submit", *GOOD],
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0
    assert "recorded, but the queue is unreachable" in done.stderr
    import_id = done.stdout.strip()
    until(lambda: running.states([import_id]) == ["SUCCEEDED"], "the sweep found it", seconds=60)


def test_help_starts_quickly() -> None:
    """Compares the fastest of five runs with a bare interpreter, measured at the same time."""
    bare = min(seconds("-c", "pass") for _ in range(5))
    helped = min(seconds("-m", "ims_producer", "--help") for _ in range(5))

    print(f"--help {helped:.3f} s, bare interpreter {bare:.3f} s, best of 5 each")
    assert helped < 0.3 + bare


def seconds(*argv: str) -> float:
    """CPU time, which other processes on the machine do not change: a start only computes."""
    code = (
        "import resource, subprocess, sys; "
        "subprocess.run([sys.executable, *sys.argv[1:]], stdout=subprocess.DEVNULL, check=True); "
        "used = resource.getrusage(resource.RUSAGE_CHILDREN); "
        "print(used.ru_utime + used.ru_stime)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *argv], capture_output=True, text=True, check=True
    )
    return float(done.stdout)
