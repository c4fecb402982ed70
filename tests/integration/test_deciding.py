"""Decisions of a person: cancel, retry, resolve, adopt, resume, gc, prune."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from builders import a_body
from celery.result import AsyncResult
from running import QUICK, Running, until


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with Running.start(settings={"UNCERTAIN_POLICY": "ask", "SETTLE_S": "1"}) as running:
        yield running


def ims(running: Running, *argv: str, expected: int = 0) -> Any:
    done = running.stack.run(*argv)
    assert done.returncode == expected, done.stderr
    return done


def ended(running: Running, import_id: str, state: str) -> dict[str, Any]:
    until(lambda: running.states([import_id]) == [state], f"it is {state}")
    return running.client.get(import_id).model_dump(mode="json")


def test_cancel_deletes_the_image_when_the_job_is_done(running: Running) -> None:
    running.cloud(job_seconds=(8, 8))
    import_id = running.client.submit(a_body(name="to-be-canceled"))
    until(lambda: running.states([import_id]) == ["RUNNING"], "it runs")

    output = ims(running, "cancel", import_id).stdout
    record = ended(running, import_id, "CANCELED")

    running.cloud(job_seconds=(0.5, 1))
    assert "will be canceled when its job ends; the image is then deleted" in output
    assert "was deleted" in record["reason"]
    [image] = [
        image for image in running.cloud_state()["images"] if image["import_id"] == import_id
    ]
    assert image["status"] == "deleted"
    result = AsyncResult(import_id, app=running.stack.app)
    until(result.ready, "the result is available")
    assert str(result.result.args[0]) == "CANCELED"


def test_retry_makes_a_new_attempt_under_the_same_id(running: Running) -> None:
    import_id = running.client.submit(a_body(name="second-try", image_url="images:late.qcow2"))
    failed = ended(running, import_id, "FAILED")
    until(lambda: running.ledger.imports.is_reported(import_id), "the failure was reported")
    s3 = running.stack.s3()
    s3.upload_file(str(running.stack.folder / "good.qcow2"), "images", "late.qcow2")
    s3.close()

    output = ims(running, "retry", import_id).stdout
    record = ended(running, import_id, "SUCCEEDED")

    assert failed["attempts"] == 1
    assert "attempt 2" in output
    assert (record["attempts"], record["error"]) == (2, None)
    result = AsyncResult(import_id, app=running.stack.app)
    until(lambda: result.state == "SUCCESS", "the id gives the new result")


def test_a_job_with_a_temporary_failure_is_retried_automatically(running: Running) -> None:
    fault = {"kind": "fail-top", "call": "create"}
    requests.post(f"{running.stack.cloud_url}/admin/faults", json=fault, timeout=10)

    import_id = running.client.submit(a_body(name="by-itself"))
    record = ended(running, import_id, "SUCCEEDED")

    reasons = [event.reason or "" for event in running.client.events(import_id)]
    assert record["attempts"] == 2
    assert any(reason.startswith("attempt 1 of 3 failed") for reason in reasons)


def test_an_uncertain_import_waits_until_a_person_resolves_it(running: Running) -> None:
    fault = {"kind": "500-before", "call": "create"}
    requests.post(f"{running.stack.cloud_url}/admin/faults", json=fault, timeout=10)

    waited = running.stack.run(
        "submit", "images:good.qcow2", "--name", "uncertain", "--min-disk", "40", "--wait"
    )
    import_id = waited.stdout.strip()
    ims(running, "resolve", import_id, "--resubmit")
    record = ended(running, import_id, "SUCCEEDED")

    assert waited.returncode == 6
    assert f"ims-import resolve {import_id} --resubmit" in waited.stderr
    assert running.images_of(import_id) == 1
    assert record["attempts"] == 2


def test_an_uncertain_import_can_be_given_up(running: Running) -> None:
    fault = {"kind": "500-before", "call": "create"}
    requests.post(f"{running.stack.cloud_url}/admin/faults", json=fault, timeout=10)
    import_id = running.client.submit(a_body(name="given-up"))
    until(lambda: "a person must" in (running.client.get(import_id).reason or ""), "it asks")

    ims(running, "resolve", import_id, "--fail")

    assert ended(running, import_id, "FAILED")["error"]["code"] == "RESOLVED.failed"


def test_a_decision_that_the_state_forbids_is_refused(running: Running) -> None:
    import_id = running.client.submit(a_body(name="done"))
    ended(running, import_id, "SUCCEEDED")

    for argv in (("cancel", import_id), ("retry", import_id), ("resolve", import_id, "--fail")):
        done = running.stack.run(*argv)
        assert done.returncode == 2
        assert f"import {import_id} is SUCCEEDED" in done.stderr


def test_a_foreign_job_is_adopted_once_and_tracked(running: Running) -> None:
    job_id = a_foreign_job(running)

    first, again = (
        ims(running, "adopt", job_id, "--name", "by-hand").stdout.strip() for _ in range(2)
    )
    record = ended(running, first, "SUCCEEDED")

    assert first == again
    assert record["job_id"] == job_id
    assert record["image_id"]


def a_foreign_job(running: Running, tag: str | None = None) -> str:
    scope = {"project": {"name": QUICK.project, "domain": {"name": QUICK.domain}}}
    user = {"name": QUICK.user, "password": QUICK.password, "domain": {"name": QUICK.domain}}
    identity = {"methods": ["password"], "password": {"user": user}}
    url = running.stack.cloud_url
    login = requests.post(
        f"{url}/v3/auth/tokens", json={"auth": {"identity": identity, "scope": scope}}, timeout=10
    )
    tags = {"image_tags": [{"key": "ims-import-id", "value": tag}]} if tag else {}
    response = requests.post(
        f"{url}/v2/cloudimages/action",
        json={"name": "by-hand", "image_url": "images:good.qcow2", "min_disk": 40} | tags,
        headers={"X-Auth-Token": login.headers["X-Subject-Token"]},
        timeout=10,
    )
    return str(response.json()["job_id"])


def test_gc_lists_orphaned_images_and_deletes_them_on_request(running: Running) -> None:
    good = running.client.submit(a_body(name="needed"))
    failed = running.client.submit(a_body(name="leaves-a-killed-image", image_url="images:no"))
    ended(running, good, "SUCCEEDED")
    ended(running, failed, "FAILED")
    a_foreign_job(running, tag="another-installation")
    until(lambda: len(orphans_of(running, "another-installation")) == 1, "its image is there")

    listed = ims(running, "gc").stdout
    deleted = ims(running, "gc", "--yes").stdout

    assert "(killed): its import FAILED; --yes deletes it" in listed
    assert running.client.get(good).image_id not in listed
    assert "its import FAILED; deleted" in deleted
    assert orphans_of(running, failed) == []
    assert len(orphans_of(running, "another-installation")) == 1
    assert json.loads(ims(running, "gc", "--json").stdout)["deleted"] == []


@pytest.mark.parametrize("command", ["gc", "resume"])
def test_an_unknown_cloud_is_reported_with_the_known_ones(running: Running, command: str) -> None:
    done = ims(running, command, "--cloud", "nosuch", expected=1)

    assert "no entry 'nosuch' in this worker's clouds.yaml; known: sandbox" in done.stderr
    assert "Traceback" not in done.stderr


def orphans_of(running: Running, import_id: str) -> list[Any]:
    found = json.loads(ims(running, "gc", "--json").stdout)["leftovers"]
    return [leftover for leftover in found if leftover["import_id"] == import_id]


def test_prune_deletes_only_finished_imports(running: Running) -> None:
    done = running.client.submit(a_body(image_url="images:broken.qcow2"))
    until(
        lambda: running.ledger.imports.is_reported(done),
        "it ended and was reported",
        seconds=40,
    )
    running.cloud(job_seconds=(15, 15))
    open_one = running.client.submit(a_body(name="still-open"))

    would = ims(running, "prune", "--older-than", "0s", "--dry-run").stdout
    assert "would be deleted: 1" in would
    assert running.find(done) is not None
    ims(running, "prune", "--older-than", "0s")

    running.cloud(job_seconds=(0.5, 1))
    assert running.find(done) is None
    assert running.find(open_one) is not None


def test_resume_retries_corrected_credentials() -> None:
    with Running.start(wrong_password=True) as running:
        import_id = running.client.submit(a_body())
        until(lambda: running.states([import_id]) == ["WAITING"], "it waits")
        refused = running.cloud_state()["refused_logins"]
        clouds = Path(running.stack.env["OS_CLIENT_CONFIG_FILE"])
        clouds.write_text(
            json.dumps(json.loads(clouds.read_text())).replace("wrong-password", QUICK.password)
        )

        output = ims(running, "resume").stdout
        ended(running, import_id, "SUCCEEDED")

    assert refused == 1
    assert "imports resumed for the default cloud: 1" in output
