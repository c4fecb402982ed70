"""A PostgreSQL server of our own, so that one may crash."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from running import until

from ims_ledger import Ledger
from ims_sandbox.process import free_port

DEBIAN = "/usr/lib/postgresql/*/bin"
# PostgreSQL refuses to run as root.
NOBODY = 65534


@dataclass
class OwnPostgres:
    """A server in a folder of its own that keeps what it has committed."""

    programs: Path
    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"postgresql+psycopg://chaos@127.0.0.1:{self.port}/postgres"

    def initialize(self) -> None:
        argv = ["initdb", "-D", "data", "-U", "chaos", "--auth=trust", "--no-locale", "-E", "UTF8"]
        self._run(argv).wait(60)

    def start(self) -> None:
        argv = ["postgres", "-D", "data", "-p", str(self.port), "-k", str(self.folder)]
        self.process = self._run([*argv, "-c", "listen_addresses=127.0.0.1"])
        until(self.answers, "PostgreSQL answers")

    def answers(self) -> bool:
        """Not only listens: after a crash it first recovers."""
        try:
            psycopg.connect(self.url.replace("+psycopg", ""), connect_timeout=1).close()
        except psycopg.OperationalError:
            return False
        return True

    def crash(self, *, down_s: float) -> None:
        """End at once, as a lost machine would, and come back after a while from the log."""
        self.stop(signal.SIGQUIT)
        # Nothing is waited for: this is how long the machine is lost.
        time.sleep(down_s)
        self.start()

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        if self.process is not None:
            self.process.send_signal(how)
            self.process.wait(30)
            self.process = None

    def _run(self, argv: list[str]) -> subprocess.Popen[bytes]:
        as_nobody: dict[str, Any] = {"user": NOBODY, "group": NOBODY} if os.getuid() == 0 else {}
        with (self.folder / f"{argv[0]}.log").open("ab") as log:
            return subprocess.Popen(
                [self.programs / argv[0], *argv[1:]],
                cwd=self.folder,
                env={"PATH": os.environ["PATH"], "LC_ALL": "C", "TZ": "UTC"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                **as_nobody,
            )


@contextmanager
def own_postgres() -> Iterator[OwnPostgres]:
    """A fresh server with the ledger's tables. Skips where PostgreSQL is not installed."""
    # Not below pytest's folder, which is for its owner's eyes only.
    with tempfile.TemporaryDirectory(prefix="ims-import-pg-") as name:
        folder = Path(name)
        server = OwnPostgres(programs(), folder, free_port())
        if os.getuid() == 0:
            os.chown(folder, NOBODY, NOBODY)
        server.initialize()
        server.start()
        try:
            ledger = Ledger(server.url)
            ledger.migrate()
            ledger.close()
            yield server
        finally:
            server.stop()


def programs() -> Path:
    if found := shutil.which("postgres"):
        return Path(found).parent
    if folders := sorted(Path("/").glob(DEBIAN.removeprefix("/"))):
        return folders[-1]
    pytest.skip("PostgreSQL's server is not installed (Debian: apt install postgresql)")
