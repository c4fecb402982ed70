"""An import through the real queue: seen by a Celery app that knows only the broker's URL."""

import json
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from builders import a_body
from celery import Celery, chain, chord, group
from celery.result import AsyncResult
from running import Running, foreign_worker, until
from sqlalchemy import text

from ims_config.import_request import parse_request
from ims_config.signatures import import_flow

PATIENCE_S = 40


@pytest.fixture(scope="module")
def bare(running: Running) -> Iterator[Celery]:
    """A Celery app without a line of ours."""
    with Celery("bare", broker=running.redis_url, backend=running.redis_url) as app:
        yield app


@pytest.fixture(scope="module")
def foreign(running: Running) -> Iterator[Celery]:
    """The same with a worker and tasks of its own."""
    with (
        foreign_worker(running.redis_url),
        Celery("foreign", broker=running.redis_url, backend=running.redis_url) as app,
    ):
        app.conf.task_default_queue = "foreign"
        yield app


def an_import(app: Celery, **differences: Any) -> Any:
    """An import in the canvas of an app whose own tasks go elsewhere by default."""
    return app.signature("ims.import_image", args=(a_body(**differences),), queue="ims.submit")


def test_the_id_a_producer_gets_gives_the_final_result(bare: Celery) -> None:
    sent = bare.send_task("ims.import_image", [a_body(name="by-message")])

    result = AsyncResult(sent.id, app=bare).get(timeout=PATIENCE_S)

    assert result["id"] == sent.id
    assert result["state"] == "SUCCEEDED"
    assert result["name"] == "by-message"
    assert result["image"]["status"] == "active"
    assert f"ims-import-id={sent.id}" in result["image"]["tags"]
    assert json.loads(json.dumps(result)) == result


def test_a_failure_carries_code_and_reason(bare: Celery) -> None:
    sent = bare.send_task("ims.import_image", [a_body(image_url="images:broken.qcow2")])

    with pytest.raises(Exception, match=r"IMG\.0057") as caught:
        sent.get(timeout=PATIENCE_S)

    code, reason, details = caught.value.args
    assert (code, details["import_id"], details["class"]) == ("IMG.0057", sent.id, "permanent")
    assert reason
    assert details["hint"]


def test_a_bad_request_fails_with_the_rule_it_broke(bare: Celery, running: Running) -> None:
    sent = bare.send_task("ims.import_image", [a_body(min_disk=0)])

    with pytest.raises(Exception, match="min_disk: must be 1 to 1024 GB"):
        sent.get(timeout=PATIENCE_S)

    assert running.find(sent.id) is None


def test_a_stored_request_that_is_invalid_now_fails_without_a_request_to_ims(
    running: Running,
) -> None:
    """As after an upgrade that brings a new rule."""
    creates = running.cloud_state()["creates"]
    record, _ = running.ledger.imports.record(parse_request(a_body()))
    with running.ledger._engine.begin() as db:
        sql = "UPDATE imports SET request = json_set(request, '$.min_disk', 0) WHERE id = :id"
        db.execute(text(sql), {"id": record.id})

    with Celery("sender", broker=running.redis_url, backend=running.redis_url) as app:
        import_flow(app, record).apply_async()
        with pytest.raises(Exception, match=r"REQUEST\.invalid"):
            AsyncResult(record.id, app=app).get(timeout=PATIENCE_S)

    ended = running.client.get(record.id)
    assert (ended.state, ended.attempts) == ("FAILED", 0)
    assert "min_disk: must be 1 to 1024 GB" in (ended.reason or "")
    assert running.cloud_state()["creates"] == creates


def test_a_chain_goes_on_with_the_result(foreign: Celery) -> None:
    sent = chain(
        an_import(foreign, name="in-a-chain"),
        foreign.signature("foreign.name_of", queue="foreign"),
        app=foreign,
    ).apply_async()

    assert sent.get(timeout=PATIENCE_S).startswith("in-a-chain: ")


def test_a_chord_collects_the_results_of_a_group(foreign: Celery) -> None:
    names = [f"member-{number}" for number in range(5)]

    sent = chord(
        [an_import(foreign, name=name) for name in names],
        foreign.signature("foreign.names_of", queue="foreign"),
        app=foreign,
    ).apply_async()

    assert sent.get(timeout=PATIENCE_S) == names


def test_a_group_gives_each_result(foreign: Celery) -> None:
    sent = group(
        [an_import(foreign, name=f"grouped-{number}") for number in range(3)], app=foreign
    ).apply_async()

    assert [one["state"] for one in sent.get(timeout=PATIENCE_S)] == ["SUCCEEDED"] * 3


@pytest.mark.parametrize(
    ("image_url", "link"),
    [("images:good.qcow2", "link"), ("images:broken.qcow2", "link_error")],
    ids=["callback", "errback"],
)
def test_a_callback_runs_once(foreign: Celery, running: Running, image_url: str, link: str) -> None:
    key = f"trace:{uuid.uuid4()}"
    callback = foreign.signature("foreign.remember", kwargs={"key": key}, queue="foreign")

    sent = an_import(foreign, image_url=image_url).apply_async(**{link: callback})
    sent.get(timeout=PATIENCE_S, propagate=False)

    until(lambda: running.redis.get(key) is not None, "the callback ran")
    until(running.idle, "nothing is left to do")
    assert running.redis.get(key) == b"1"


def test_a_message_delivered_twice_makes_one_image(bare: Celery, running: Running) -> None:
    task_id = str(uuid.uuid4())
    copies = [
        bare.send_task("ims.import_image", [a_body(name="twice")], task_id=task_id)
        for _ in range(5)
    ]

    assert copies[0].get(timeout=PATIENCE_S)["state"] == "SUCCEEDED"
    until(running.idle, "nothing is left to do")
    assert running.images_of(task_id) == 1


def test_the_ids_state_between_two_looks_says_how_it_stands(bare: Celery, running: Running) -> None:
    running.cloud(job_seconds=(3, 3))
    sent = bare.send_task("ims.import_image", [a_body()])
    retry = AsyncResult(sent.id, app=bare)

    until(lambda: retry.state == "RETRY", "the poll was put off")

    assert str(retry.info) == "RUNNING"
    running.cloud(job_seconds=(0.5, 1))
    assert retry.get(timeout=PATIENCE_S)["state"] == "SUCCEEDED"


@pytest.mark.parametrize("harm", ["kill the worker", "flush Redis"])
def test_imports_that_wait_are_finished_by_another_worker(running: Running, harm: str) -> None:
    running.cloud(job_seconds=(4, 5))
    ids = [running.client.submit(a_body(name=f"{harm} {number}")) for number in range(10)]
    until(lambda: set(running.states(ids)) == {"RUNNING"}, "all run")

    harms: dict[str, Callable[[], Any]] = {
        "kill the worker": running.replace_worker,
        "flush Redis": running.redis.flushall,
    }
    harms[harm]()

    until(lambda: set(running.states(ids)) == {"SUCCEEDED"}, "all ended", seconds=90)
    assert [running.images_of(import_id) for import_id in ids] == [1] * 10
    running.cloud(job_seconds=(0.5, 1))
