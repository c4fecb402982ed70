"""A child process of the stack with a log and a readiness check; it ends with its parent."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from threading import Event
from time import monotonic
from typing import Final

READY_WITHIN: Final = timedelta(seconds=60)
STOP_WITHIN: Final = timedelta(seconds=15)
CHECK_EVERY: Final = timedelta(milliseconds=50)
TAIL_LINES: Final = 25
# Runs before the program itself: on Linux, the child then dies with its parent.
_LAUNCHER: Final = Path(__file__).with_name("launch.py")


class ProcessFailed(RuntimeError):
    """A process ended or did not become ready; the message contains the end of its log."""


def wait_for(condition: Callable[[], bool], *, within: timedelta) -> bool:
    """Whether the condition became true in time."""
    pause, end = Event(), monotonic() + within.total_seconds()
    while not condition():
        if monotonic() > end:
            return False
        pause.wait(CHECK_EVERY.total_seconds())
    return True


def free_port() -> int:
    """A port that is free now; another program may still take it first."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


@dataclass(slots=True, kw_only=True, eq=False)
class Process:
    """A child with its own process group and log; it may be started again after its end."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str]
    folder: Path
    ready: Callable[[], bool]
    process: subprocess.Popen[bytes] = field(init=False)

    @property
    def log(self) -> Path:
        return self.folder / f"{self.name}.log"

    def start(self) -> None:
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_LAUNCHER), str(os.getpid()), *self.argv],
                env=dict(self.env),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def tail(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()
        return "\n".join(f"  {line}" for line in lines[-TAIL_LINES:])

    def wait_ready(self) -> None:
        """Wait until `ready`; raises ProcessFailed with the end of the log."""
        in_time = wait_for(lambda: not self.running or self.ready(), within=READY_WITHIN)
        if in_time and self.running:
            return
        failure = f"was not ready within {READY_WITHIN.total_seconds():.0f} s"
        if not self.running:
            failure = f"ended with code {self.process.returncode} before it was ready"
        raise ProcessFailed(f"{self.name} {failure}.\nThe end of its log:\n{self.tail()}")

    def signal(self, number: signal.Signals) -> None:
        """Signal the whole process group, if it still exists."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, number)

    def stop(self, *, within: timedelta = STOP_WITHIN) -> None:
        """SIGTERM, wait, then SIGKILL."""
        if self.running:
            self.signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(within.total_seconds())
        self.kill()

    def kill(self) -> None:
        """SIGKILL, as a crash would."""
        self.signal(signal.SIGKILL)
        self.process.wait()
