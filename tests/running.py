"""The stack that tests of the whole chain drive, in the words they need."""

import os
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
from ims_sandbox.stack import Stack

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
        with Stack.running(s3=True, cloud=QUICK, **options) as stack:
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
        images = self.books()["images"]
        return sum(image["import_id"] == import_id for image in images)

    def books(self) -> dict[str, Any]:
        answer = requests.get(f"{self.stack.cloud_url}/admin/books", timeout=10)
        books: dict[str, Any] = answer.json()
        return books

    def cloud(self, **options: Any) -> None:
        """Change the sandbox cloud."""
        requests.post(
            f"{self.stack.cloud_url}/admin/settings", json=options, timeout=10
        ).raise_for_status()

    def idle(self) -> bool:
        """No import is open and none is in the schedule."""
        return not self.ledger.imports.unreported() and not self.redis.exists(DUE_KEY)

    def replace_worker(self) -> None:
        """Kill the only worker as a crash would, then start another."""
        [worker] = self.stack.workers
        self.stack.kill(worker)
        self.stack.worker()


@contextmanager
def foreign_worker(redis_url: str) -> Iterator[None]:
    """The worker of somebody else's app."""
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
    """Wait for a condition, not for a time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.05)
