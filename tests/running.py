"""A running stack with the operations that integration tests need."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import requests
from redis import Redis

from ims_config.names import DUE_KEY
from ims_config.records import ImportResult
from ims_ledger import Ledger, NotFound
from ims_producer import Client
from ims_sandbox import bucket, diskimages
from ims_sandbox.cloud import CloudOptions
from ims_sandbox.stack import Stack, StackOptions

QUICK = CloudOptions(job_seconds=(0.5, 1.0))


@dataclass(frozen=True, slots=True)
class Running:
    """A stack with a good and a broken image file in its bucket `images`."""

    stack: Stack
    client: Client
    ledger: Ledger
    redis: Redis

    @classmethod
    @contextmanager
    def start(cls, *, wrong_password: bool = False, **options: Any) -> Iterator[Self]:
        with Stack.running(StackOptions(s3=True, cloud=QUICK, **options)) as stack:
            if wrong_password:
                clouds = Path(stack.env["OS_CLIENT_CONFIG_FILE"])
                clouds.write_text(clouds.read_text().replace(QUICK.password, "wrong-password"))
            files = [
                diskimages.write_qcow2(stack.folder / "good.qcow2"),
                diskimages.write_qcow2(stack.folder / "ubuntu.qcow2"),
                diskimages.write_broken(stack.folder / "broken.qcow2"),
            ]
            bucket.fill(stack.s3_url or "", stack.keys, bucket="images", files=files)
            with (
                Client(stack.settings()) as client,
                closing(Ledger(stack.settings().ledger)) as ledger,
                Redis.from_url(stack.redis_url) as redis,
            ):
                ledger.migrate()
                yield cls(stack, client, ledger, redis)

    @property
    def redis_url(self) -> str:
        return self.stack.redis_url

    def find(self, import_id: str) -> ImportResult | None:
        try:
            return self.client.get(import_id)
        except NotFound:
            return None

    def states(self, ids: Sequence[str]) -> list[str]:
        return [str(self.client.get(import_id).state) for import_id in ids]

    def images_of(self, import_id: str) -> int:
        images = self.cloud_state()["images"]
        return sum(image["import_id"] == import_id for image in images)

    def cloud_state(self) -> dict[str, Any]:
        """Jobs, images and counters of the sandbox cloud."""
        state: dict[str, Any] = self._admin("GET", "books").json()
        return state

    def cloud(self, **options: Any) -> None:
        """Change options of the sandbox cloud."""
        self._admin("POST", "settings", json=options)

    def reset_cloud(self) -> None:
        """Undo what a test changed; jobs and images stay."""
        self.cloud(job_seconds=QUICK.job_seconds, max_active=QUICK.max_active)
        self._admin("DELETE", "faults")

    def _admin(self, method: str, path: str, **options: Any) -> requests.Response:
        url = f"{self.stack.cloud_url}/admin/{path}"
        response = requests.request(method, url, timeout=10, **options)
        response.raise_for_status()
        return response

    def idle(self) -> bool:
        """No import is open and none is in the schedule."""
        return not self.ledger.imports.unreported() and not self.redis.exists(DUE_KEY)

    def replace_worker(self) -> None:
        """Kill the only worker as a crash would, then start another."""
        [worker] = self.stack.workers
        self.stack.kill(worker)
        self.stack.worker()


def restart_redis(stack: Stack, pause_s: float = 0) -> None:
    """Stop the server, which loses all data, and start it at the same address."""
    with without_redis(stack):
        time.sleep(pause_s)


@contextmanager
def without_redis(stack: Stack) -> Iterator[None]:
    """Stop the server for the block; it restarts empty at the same address."""
    valkey = stack.process("valkey")
    valkey.kill()
    yield
    valkey.start()
    valkey.wait_ready()


@contextmanager
def without_cloud(stack: Stack) -> Iterator[None]:
    """Suspend the cloud for the block; it keeps its state."""
    cloud = stack.process("cloud")
    cloud.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        cloud.signal(signal.SIGCONT)


@contextmanager
def foreign_worker(redis_url: str) -> Iterator[None]:
    """A worker of another Celery application."""
    argv = ["-m", "celery", "-A", "foreign", "worker", "-P", "solo", "-Q", "foreign"]
    with subprocess.Popen(
        [sys.executable, *argv],
        cwd=Path(__file__).parent,
        env=os.environ | {"FOREIGN_REDIS_URL": redis_url},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        yield
        process.terminate()


def until(condition: Callable[[], bool], what: str, *, seconds: float = 30) -> None:
    """Wait until the condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.05)
