"""Another Celery application, which knows only the broker's URL."""

import os
from typing import Any

from celery import Celery

app = Celery(
    "foreign", broker=os.environ["FOREIGN_REDIS_URL"], backend=os.environ["FOREIGN_REDIS_URL"]
)
app.conf.update(
    task_default_queue="foreign", worker_hijack_root_logger=False, broker_connection_timeout=5
)


@app.task
def name_of(result: dict[str, Any]) -> str:
    """A task that uses the result of an import."""
    return f"{result['name']}: {result['image_id']}"


@app.task
def names_of(results: list[dict[str, Any]]) -> list[str]:
    """The body of a chord of imports."""
    return sorted(result["name"] for result in results)


@app.task(bind=True)
def remember(self: Any, *_what: Any, key: str) -> int:
    """A callback or errback that counts its runs."""
    client = self.app.backend.client
    return int(client.incr(key))
