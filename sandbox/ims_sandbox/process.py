"""One part of the stack: a child process that says when it is ready and never outlives us."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from threading import Event
from time import monotonic
from typing import Final

READY_WITHIN: Final = timedelta(seconds=60)
STOP_WITHIN: Final = timedelta(seconds=15)
LOOK_EVERY: Final = timedelta(milliseconds=50)
TAIL_LINES: Final = 25
# Runs before the part itself: where the system can, the part dies with its parent.
_LAUNCHER: Final = Path(__file__).with_name("launch.py")


class ProcessFailed(RuntimeError):
    """A part of the stack ended or did not get ready; the message holds the end of its log."""


def wait_for(condition: Callable[[], bool], *, within: timedelta) -> bool:
    """Whether the condition came true in time."""
    pause, end = Event(), monotonic() + within.total_seconds()
    while not condition():
        if monotonic() > end:
            return False
        pause.wait(LOOK_EVERY.total_seconds())
    return True


def free_port() -> int:
    """A port nobody listens on now; who comes too late for it takes another."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


@dataclass(slots=True, kw_only=True)
class Process:
    """A running child in a process group of its own, with its log."""

    name: str
    log: Path
    process: subprocess.Popen[bytes]

    @classmethod
    def launch(
        cls, name: str, argv: Sequence[str], *, env: Mapping[str, str], folder: Path
    ) -> "Process":
        log = folder / f"{name}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_LAUNCHER), str(os.getpid()), *argv],
                env=dict(env),
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        return cls(name=name, log=log, process=process)

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def tail(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()
        return "\n".join(f"  {line}" for line in lines[-TAIL_LINES:])

    def wait_ready(self, ready: Callable[[], bool]) -> None:
        """Until `ready`; raises ProcessFailed with the end of the log."""
        came = wait_for(lambda: not self.running or ready(), within=READY_WITHIN)
        if not self.running:
            raise ProcessFailed(
                f"{self.name} ended with code {self.process.returncode} before it was ready.\n"
                f"The end of its log:\n{self.tail()}"
            )
        if not came:
            raise ProcessFailed(
                f"{self.name} was not ready within {READY_WITHIN.total_seconds():.0f} s.\n"
                f"The end of its log:\n{self.tail()}"
            )

    def signal(self, number: signal.Signals) -> None:
        """To the whole group; one that is gone needs none."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, number)

    def stop(self, *, within: timedelta = STOP_WITHIN) -> None:
        """Ask, wait, then end it."""
        if self.running:
            self.signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(within.total_seconds())
        self.kill()

    def kill(self) -> None:
        """End it at once, as a crash would."""
        self.signal(signal.SIGKILL)
        self.process.wait()
