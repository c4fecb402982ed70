"""Nothing that leaves the worker holds the password or a token of the run."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from builders import a_body
from receiving import Receiver
from redis import Redis
from running import QUICK, Running, until


@pytest.fixture
def running() -> Iterator[Running]:
    with Running.start(flower=True, api=True, settings={"LOG_LEVEL": "DEBUG"}) as running:
        yield running


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver.running() as receiver:
        yield receiver


def everything_in_redis(redis: Redis) -> dict[str, str]:
    """Every key with all that is under it, as text."""
    readers: dict[bytes, Any] = {
        b"string": redis.get,
        b"hash": redis.hgetall,
        b"list": lambda key: redis.lrange(key, 0, -1),
        b"set": redis.smembers,
        b"zset": lambda key: redis.zrange(key, 0, -1, withscores=True),
    }
    return {
        key.decode(): str(readers[redis.type(key)](key))
        for key in redis.scan_iter(count=1000)
        if redis.type(key) in readers
    }


def files_of(folder: Path) -> dict[str, str]:
    """Ledger, logs and Flower's history; not the files that are there to hold secrets."""
    holds_secrets = {"clouds.yaml", "cloud.json", "valkey.conf"}
    return {
        str(file.relative_to(folder)): file.read_bytes().decode("latin-1")
        for file in folder.rglob("*")
        if file.is_file() and file.name not in holds_secrets
    }


def pages_of(running: Running) -> dict[str, str]:
    flower = running.stack.flower
    assert flower is not None
    names = ("tasks", "workers", "broker", "api/tasks", "api/workers", "metrics")
    return {
        name: requests.get(f"{flower.url}/{name}", auth=flower.auth, timeout=20).text
        for name in names
    }


def test_no_password_and_no_token_is_found_anywhere(running: Running, receiver: Receiver) -> None:
    url = running.stack.cloud_url
    notified = running.client.submit(a_body(name="notified", webhook_url=receiver.url))
    until(lambda: "import.succeeded" in receiver.types(notified), "the webhook was delivered")
    ids = [
        running.client.submit(a_body(name=f"image-{n}", image_url=f"images:{file}"))
        for n, file in enumerate(("good.qcow2", "broken.qcow2"))
    ]
    until(running.idle, "both ended")
    first = requests.get(f"{url}/admin/tokens", timeout=10).json()["tokens"]
    requests.post(f"{url}/admin/revoke-tokens", timeout=10)
    ids.append(running.client.submit(a_body(name="with-a-new-token")))
    running.cloud(job_seconds=(3, 3))
    ids.append(running.client.submit(a_body(name="open")))
    until(lambda: running.states(ids[3:]) == ["RUNNING"], "one is open while we look")
    tokens = first + requests.get(f"{url}/admin/tokens", timeout=10).json()["tokens"]

    shown = running.stack.run("show", ids[1], "--json", "--events").stdout
    places = {
        "records": json.dumps([running.client.get(i).model_dump(mode="json") for i in ids]),
        "show": shown,
        "doctor": running.stack.run("doctor", "--json").stdout,
        **{f"redis {key}": text for key, text in everything_in_redis(running.redis).items()},
        **{f"redis key {key}": key for key in everything_in_redis(running.redis)},
        **{f"file {name}": text for name, text in files_of(running.stack.folder).items()},
        **{f"flower {name}": text for name, text in pages_of(running).items()},
        **{
            f"arguments {process.name}": arguments(process.process.pid)
            for process in running.stack.processes
        },
    }
    webhook = running.stack.run("webhooks", "secret", receiver.url).stdout.strip()
    receiver.all[0].verify(webhook)
    api = running.stack.api
    assert api is not None
    secrets = [QUICK.password, *tokens, *clouds_secrets(running), webhook, api.key]

    found = [place for place, text in places.items() for secret in secrets if secret in text]
    assert len(tokens) == 2
    assert webhook.startswith("whsec_")
    assert any(place.startswith("redis ims-import:token") for place in places)
    assert any(place.startswith("file worker1.log") for place in places)
    assert found == []


def arguments(pid: int) -> str:
    file = Path(f"/proc/{pid}/cmdline")
    return file.read_bytes().decode() if file.exists() else ""


def clouds_secrets(running: Running) -> list[str]:
    """What opens the cached token and the bucket."""
    return [*running.stack.settings().secret_keys, running.stack.keys.secret_key]
