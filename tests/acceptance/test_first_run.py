"""The demo, and the stack of `make up`, as a new user runs them."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from running import until

STANDARD_PORTS = ("6379", "5672", "5432")


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """The environment of a user without configuration; temporary files go to `tmp_path`."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("IMS_", "OS_"))
    }
    return kept | {"TMPDIR": str(tmp_path), "HOME": str(tmp_path), "COLUMNS": "100"}


def left_behind(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith("ims-import")]


def processes_in(folder: Path) -> list[str]:
    """Command lines of running processes whose environment names this folder."""
    commands = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            environ = (process / "environ").read_bytes()
            if f"={folder}".encode() in environ and process.name != str(os.getpid()):
                commands.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return commands


def test_the_demo_creates_three_images_and_explains_the_broken_one_each_time(
    env: dict[str, str], tmp_path: Path
) -> None:
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-m", "ims_producer", "demo"],
            env=env, capture_output=True, text=True, timeout=110, check=False,
        )  # fmt: skip

        assert done.returncode == 0, done.stdout + done.stderr
        assert len(re.findall(r"SUCCEEDED, image [0-9a-f-]{36}", done.stdout)) == 3
        assert re.search(r"broken: FAILED, IMG\.0057: \w+", done.stdout)
        assert "What to do: " in done.stdout
        assert done.stderr == ""
        assert left_behind(tmp_path) == []


@pytest.fixture
def up(env: dict[str, str], tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    with (tmp_path / "up.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "ims_producer", "sandbox", "up"],
            env=env, stdout=log, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        yield process
        process.kill()
        process.wait()


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_up_prints_working_commands_and_ctrl_c_removes_everything(
    up: "subprocess.Popen[str]", env: dict[str, str], tmp_path: Path, stop: signal.Signals
) -> None:
    log = tmp_path / "up.log"
    until(lambda: "ims-import list" in log.read_text(), "the stack is up", seconds=60)
    output = log.read_text()

    commands = re.findall(r"(?m)^  ((?:source|ims-import) .*)$", output)
    done = subprocess.run(
        ["bash", "-c", "set -e; " + "; ".join(commands)],
        env=env, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    up.send_signal(stop)
    up.wait(timeout=30)

    assert done.returncode == 0, done.stderr
    assert "SUCCEEDED" in done.stdout
    assert not any(f":{port}" in output for port in STANDARD_PORTS)
    assert up.returncode == 0
    assert "all files are removed" in log.read_text()
    assert left_behind(tmp_path) == []
    assert processes_in(tmp_path) == []
