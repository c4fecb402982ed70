"""A ledger and queued messages of version 0.1, as its first release candidate wrote them.

tests/data/ledger-0.1.sql is a dump of an SQLite ledger with an import in every state;
tests/data/messages-0.1.json holds the messages and the schedule that it left in Redis.
"""

import json
import sqlite3
from pathlib import Path
from typing import Any, Final

import pytest
from redis import Redis
from running import Running, until

from ims_config.names import DUE_KEY
from ims_config.records import Origin, State, WaitsFor
from ims_ledger.ledger import Ledger

DATA: Final = Path(__file__).parents[1] / "data"
# Their jobs and images exist only in the cloud of the previous version.
LOST: Final = {"running", "verifying", "adopted"}
OPEN: Final = {
    "queued", "waiting-slot", "waiting-credentials", "waiting-person", "submitting", "uncertain",
}  # fmt: skip


@pytest.fixture
def url(tmp_path: Path) -> str:
    file = tmp_path / "ledger.db"
    connection = sqlite3.connect(file)
    connection.executescript((DATA / "ledger-0.1.sql").read_text())
    connection.close()
    return f"sqlite:///{file}"


def stored() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((DATA / "messages-0.1.json").read_text())
    return content


def restore(redis: Redis) -> None:
    """Write the queues and the schedule of the previous version."""
    content = stored()
    for queue, messages in content["queues"].items():
        redis.rpush(queue, *(json.dumps(message) for message in messages))
    for key, entries in content["redis"].items():
        if key == DUE_KEY:
            redis.zadd(key, entries)
        else:
            redis.hset(key, mapping=entries)


def test_every_record_of_the_previous_version_is_readable(url: str) -> None:
    ledger = Ledger(url)
    ledger.migrate()

    records = {record.name: record for record in ledger.imports.page(limit=100)}

    assert {name: str(record.state) for name, record in records.items()} == {
        "queued": "QUEUED",
        "waiting-slot": "WAITING",
        "waiting-credentials": "WAITING",
        "waiting-person": "WAITING",
        "submitting": "SUBMITTING",
        "uncertain": "UNCERTAIN",
        "running": "RUNNING",
        "verifying": "VERIFYING",
        "adopted": "RUNNING",
        "succeeded": "SUCCEEDED",
        "failed": "FAILED",
        "canceled": "CANCELED",
    }
    adopted = records["adopted"]
    assert (adopted.origin, adopted.request, adopted.image_url, adopted.kind) == (
        Origin.ADOPTED, None, None, None,
    )  # fmt: skip
    assert {record.origin for record in records.values()} == {Origin.ADOPTED, Origin.REQUEST}
    assert records["queued"].request is not None
    assert records["waiting-slot"].waits_for is WaitsFor.SLOT
    assert records["waiting-credentials"].credentials_refused
    assert all(ledger.imports.events(record.id) for record in records.values())
    assert [key.id for key in ledger.api_keys.all()] == [stored()["api_key_id"]]
    assert [webhook.url for webhook in ledger.webhook_endpoints.all()] == [
        "https://hooks.example/images"
    ]
    ledger.close()


def test_open_imports_and_queued_messages_of_the_previous_version_finish(url: str) -> None:
    settings = {"LEDGER_URL": url, "DEADLINE_S": "315360000"}
    with Running.start(workers=0, settings=settings) as running:
        restore(running.redis)
        running.stack.worker()

        until(running.idle, "all imports end", seconds=90)

        results = {record.name: record for record in running.client.list(limit=100)}
        assert {name for name in OPEN if results[name].state is not State.SUCCEEDED} == set()
        assert results["from-message"].state is State.SUCCEEDED
        for name in LOST:
            assert results[name].state is State.FAILED
            assert results[name].error is not None
        for name in OPEN | {"from-message"}:
            assert running.images_of(results[name].id) == 1
