"""RabbitMQ as the broker, with replicated queues; results stay in Redis."""

import os
from collections.abc import Iterator

import pytest
from builders import a_body
from celery import Celery
from running import Running, until

RABBITMQ = "IMS_IMPORT_TEST_RABBITMQ_URL"


@pytest.fixture
def broker() -> str:
    given = os.environ.get(RABBITMQ)
    if given is None:
        if os.environ.get("CI"):
            pytest.fail(f"{RABBITMQ} is not set, and in CI nothing may be skipped")
        pytest.skip(f"{RABBITMQ} names no server, e.g. amqp://guest:guest@localhost:5672//")
    return given


@pytest.fixture
def running(broker: str) -> Iterator[Running]:
    with Running.start(settings={"BROKER_URL": broker}) as running:
        yield running


def test_imports_run_and_survive_a_killed_worker(running: Running, broker: str) -> None:
    running.cloud(job_seconds=(3, 4))
    ids = [running.client.submit(a_body(name=f"rabbit-{number}")) for number in range(4)]
    until(lambda: set(running.states(ids)) == {"RUNNING"}, "all run")

    running.replace_worker()

    with Celery("bare", broker=broker, backend=running.redis_url) as bare:
        sent = bare.send_task("ims.import_image", [a_body(name="by-message")])
        assert sent.get(timeout=60)["state"] == "SUCCEEDED"
    until(lambda: set(running.states(ids)) == {"SUCCEEDED"}, "all ended", seconds=90)
    assert [running.images_of(import_id) for import_id in ids] == [1] * 4
