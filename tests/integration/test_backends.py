"""One conformance suite for both backends: every method and every error behaves the same."""

import socket
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import requests
import uvicorn
import yaml
from builders import a_body
from running import Running, until

from ims_config.records import ErrorClass, ImportResult, Scope, State
from ims_config.settings import Settings
from ims_ledger import InvalidState, KeyConflict, LedgerUnavailable, NotFound
from ims_ledger.outbox import DeliveryState
from ims_producer import Client, InvalidRequest, StillTracked
from ims_producer.api.app import make_app
from ims_producer.backends.direct import DirectBackend
from ims_producer.backends.http import HttpBackend
from ims_producer.errors import ApiUnavailable, KeyRefused, WorkerRefused, WorkerUnavailable
from ims_sandbox.process import free_port

BACKENDS = {"direct": DirectBackend, "http": HttpBackend}
EACH_KIND = pytest.mark.parametrize("kind", BACKENDS)
# Ids that do not exist, cannot exist, or would change the path of a request.
NO_IDS = ("nobody", "no such id", "../keys", "a/b", "", "ü", "x" * 100)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    rules = tmp_path_factory.mktemp("rules") / "watch.yaml"
    rule = {"name": "objects", "bucket": "images", "prefix": "in/", "request": {"min_disk": 40}}
    rules.write_text(yaml.safe_dump({"version": 1, "rules": [rule]}))
    settings = {
        "UNCERTAIN_POLICY": "ask",
        "SETTLE_S": "1",
        "WATCH_FILE": str(rules),
        # What is found earlier was found because a client reported it.
        "WATCH_EVERY_S": "3600",
    }
    with Running.start(api=True, settings=settings) as running:
        yield running


@pytest.fixture(params=BACKENDS)
def client(running: Running, request: pytest.FixtureRequest) -> Iterator[Client]:
    api = running.stack.api
    assert api is not None
    over_http = {"api_url": api.url, "api_key": api.key} if request.param == "http" else {}
    with Client(running.stack.settings(**over_http)) as client:
        assert type(client.backend) is BACKENDS[request.param]
        yield client


@pytest.fixture
def name() -> str:
    """An image name that no other test uses."""
    return f"i-{uuid.uuid4()}"


def succeeded(client: Client, name: str) -> ImportResult:
    result = client.wait(client.submit(a_body(name=name)), timeout=60)
    assert result.state is State.SUCCEEDED
    return result


def uncertain(running: Running, client: Client, name: str) -> str:
    """An import whose create request got no response, and that waits for a person."""
    fault = {"kind": "500-before", "call": "create"}
    requests.post(f"{running.stack.cloud_url}/admin/faults", json=fault, timeout=10)
    import_id = client.submit(a_body(name=name))
    assert client.wait(import_id, timeout=60).needs_a_person
    return import_id


# --- imports --------------------------------------------------------------------------------


def test_an_import_is_recorded_once_per_key(client: Client, name: str) -> None:
    first = client.submit_import(a_body(name=name), key=name)
    second = client.submit_import(a_body(name=name), key=name)

    assert (first.created, second.created) == (True, False)
    assert second.record.id == first.record.id
    assert first.queued
    with pytest.raises(KeyConflict) as conflict:
        client.submit(a_body(name="other"), key=name)
    assert conflict.value.current.id == first.record.id


def test_an_import_is_read_with_its_history_until_it_ends(client: Client, name: str) -> None:
    result = succeeded(client, name)
    events = client.events(result.id)

    assert client.get(result.id) == result
    assert result.image is not None
    assert [event.to_state for event in events][-1] is State.SUCCEEDED
    assert client.events(result.id, after=events[0].id) == events[1:]


def test_waiting_ends_at_the_timeout(running: Running, client: Client, name: str) -> None:
    running.cloud(job_seconds=(8, 8))
    import_id = client.submit(a_body(name=name))
    with pytest.raises(StillTracked) as caught:
        client.wait(import_id, timeout=0.5)
    running.cloud(job_seconds=(0.5, 1.0))

    assert caught.value.record.id == import_id
    client.cancel(import_id)


def test_an_invalid_request_is_not_recorded(client: Client, name: str) -> None:
    with pytest.raises(InvalidRequest, match="min_disk: "):
        client.submit(a_body(name=name, min_disk=0))

    assert client.list(name=name) == []


def test_a_list_is_narrowed_by_each_filter(client: Client, name: str) -> None:
    first = client.wait(client.submit(a_body(name=name, tags={"n": name})), timeout=60)
    second = client.wait(client.submit(a_body(name=name, cloud="sandbox")), timeout=60)

    def ids(**filters: object) -> list[str]:
        return [record.id for record in client.list(name=name, **filters)]  # type: ignore[arg-type]  # a table of cases

    assert ids() == [second.id, first.id]
    assert ids(states=[State.SUCCEEDED]) == [second.id, first.id]
    assert ids(states=[State.FAILED]) == []
    assert ids(cloud="sandbox") == [second.id]
    assert ids(tag=("n", name)) == [first.id]
    assert ids(created_after=second.created_at) == [second.id]
    assert ids(created_before=second.created_at) == [first.id]
    assert ids(limit=1) == [second.id]
    assert ids(before=second.id) == [first.id]
    with pytest.raises(NotFound) as missing:
        ids(before="nobody")
    assert (missing.value.kind, missing.value.id) == ("import", "nobody")


def test_a_list_may_be_longer_than_a_page_of_the_api(client: Client, name: str) -> None:
    tags = {"n": name}
    ids = [client.submit(a_body(name=name, tags=tags)) for _ in range(3)]

    found = client.list(limit=1000)

    assert set(ids) <= {record.id for record in found}


def test_imports_are_found_by_many_names_and_by_key_prefix(client: Client, name: str) -> None:
    first = client.submit(a_body(name=name), key=f"{name}/1")
    second = client.submit(a_body(name=f"{name}-b"), key=f"{name}/2")
    names = [name, f"{name}-b", *(f"absent-{number}" for number in range(300))]

    assert {record.id for record in client.named(names)} == {first, second}
    assert {record.id for record in client.with_keys_from(f"{name}/")} == {first, second}
    assert client.named([]) == []


# --- decisions ------------------------------------------------------------------------------


def test_a_running_import_is_canceled(running: Running, client: Client, name: str) -> None:
    running.cloud(job_seconds=(3, 3))
    import_id = client.submit(a_body(name=name))
    until(lambda: client.get(import_id).state is State.RUNNING, "it runs")

    canceled = client.cancel(import_id, leave_image=True)

    assert (canceled.cancel, client.get(import_id).canceling) == ("leave", True)
    running.cloud(job_seconds=(0.5, 1.0))
    assert client.wait(import_id, timeout=60).state is State.CANCELED


def test_a_failed_import_is_retried(client: Client, name: str) -> None:
    import_id = client.submit(a_body(name=name, image_url="images:broken.qcow2"))
    failed = client.wait(import_id, timeout=60)

    queued = client.retry(import_id)

    assert failed.error is not None
    assert failed.error.code == "IMG.0057"
    assert (queued.id, queued.state) == (import_id, State.QUEUED)
    assert client.wait(import_id, timeout=60).attempts == 2


def test_an_uncertain_import_is_resolved(running: Running, client: Client, name: str) -> None:
    names = (f"{name}-{number}" for number in range(3))
    resubmitted, named, given_up = (uncertain(running, client, unique) for unique in names)

    client.resolve(resubmitted, resubmit=True)
    image_id = client.wait(resubmitted, timeout=60).image_id
    client.resolve(named, image_id=image_id)
    client.resolve(given_up)

    assert client.wait(named, timeout=60).image_id == image_id
    failure = client.wait(given_up, timeout=60).error
    assert failure is not None
    assert failure.code == "RESOLVED.failed"


def test_what_the_state_forbids_is_refused_with_the_rule(client: Client, name: str) -> None:
    result = succeeded(client, name)

    for operation in (client.cancel, client.retry, client.resolve):
        with pytest.raises(InvalidState) as refused:
            operation(result.id)
        assert refused.value.current.id == result.id
        assert refused.value.current.state is State.SUCCEEDED
        assert str(refused.value) == f"import {result.id} is SUCCEEDED: {refused.value.rule}"


def test_a_job_is_adopted_once(running: Running, client: Client, name: str) -> None:
    job_id = client.wait(client.submit(a_body(name=name)), timeout=60).job_id
    assert job_id is not None

    first, second = (client.adopt(job_id, name=name) for _ in range(2))

    assert (first.created, second.created) == (True, False)
    assert first.record.id == second.record.id
    assert running.ledger.imports.get(first.record.id).job_id == job_id
    with pytest.raises(InvalidRequest):
        client.adopt("job-of-nobody", name=name, cloud="no\nsuch")


def test_finished_imports_are_counted_and_pruned(client: Client, name: str) -> None:
    result = succeeded(client, name)

    assert client.prune(older_than=timedelta(days=1)) == 0
    until(lambda: client.prune(older_than=timedelta(0), only_count=True) > 0, "one is reported")
    until(lambda: client.prune(older_than=timedelta(0)) >= 0 and _gone(client, result.id), "gone")


def _gone(client: Client, import_id: str) -> bool:
    try:
        client.get(import_id)
    except NotFound:
        return True
    return False


# --- what does not exist --------------------------------------------------------------------


@pytest.mark.parametrize("id_", NO_IDS)
def test_an_unknown_import_is_not_found(client: Client, id_: str) -> None:
    for operation in (
        client.get,
        client.events,
        client.cancel,
        client.retry,
        client.resolve,
        client.wait,
    ):
        with pytest.raises(NotFound) as missing:
            operation(id_)
        assert (missing.value.kind, missing.value.id) == ("import", id_)


@pytest.mark.parametrize("id_", NO_IDS)
def test_an_unknown_key_webhook_or_delivery_is_not_found(client: Client, id_: str) -> None:
    operations = {
        "key": client.revoke_key,
        "webhook": client.remove_webhook,
        "delivery": client.resend,
    }
    for kind, operation in operations.items():
        with pytest.raises(NotFound) as missing:
            operation(id_)
        assert (missing.value.kind, missing.value.id) == (kind, id_)


# --- operations of a worker -----------------------------------------------------------------


def test_a_worker_reports_images_and_credentials(client: Client, name: str) -> None:
    result = succeeded(client, name)

    [image] = client.find_images(None, [name])
    report = client.gc()

    assert (image.id, image.status, image.import_id) == (result.image_id, "active", result.id)
    assert report.project == result.project
    assert result.image_id not in [orphan.image_id for orphan in report.leftovers]
    assert client.resume().waited == 0


def test_what_the_cloud_refuses_arrives_with_its_code_and_hint(client: Client) -> None:
    for operation in (client.gc, client.resume, lambda cloud: client.find_images(cloud, ["a"])):
        with pytest.raises(WorkerRefused) as refused:
            operation("nosuch")
        failure = refused.value.failure
        assert (failure.code, failure.error_class) == ("CLOUD.unknown", ErrorClass.PERMANENT)
        # The message holds the separators of sentences and lists.
        assert failure.message == "no entry 'nosuch' in this worker's clouds.yaml; known: sandbox"
        assert failure.hint == "Use a known entry, or add one to clouds.yaml of every worker."


def test_a_reported_object_is_imported(running: Running, client: Client, name: str) -> None:
    key = f"in/{name}+1.qcow2"
    good = (running.stack.folder / "good.qcow2").read_bytes() + name.encode()
    running.stack.s3().put_object(Bucket="images", Key=key, Body=good)

    client.notify_object("images", key)

    url = f"images:{key}"
    until(lambda: url in {record.image_url for record in client.list(limit=1000)}, "imported")


# --- keys and webhooks ----------------------------------------------------------------------


def test_api_keys_are_created_listed_and_revoked(client: Client, name: str) -> None:
    expires_at = datetime(2100, 1, 1, tzinfo=UTC)
    key, text = client.create_key(
        name, scopes=[Scope.READ], clouds=["sandbox"], expires_at=expires_at
    )

    assert text.startswith(f"ims_{key.id}_")
    assert (key.scopes, key.clouds, key.expires_at) == ((Scope.READ,), ("sandbox",), expires_at)
    assert key in list(client.keys())
    assert client.revoke_key(key.id).revoked_at is not None


def test_webhooks_are_added_listed_rotated_and_removed(client: Client, name: str) -> None:
    url = f"https://ci.example/{name}?a=b"
    webhook = client.add_webhook(url, events=["import.failed"], clouds=["sandbox"])  # type: ignore[list-item]  # as a user writes it

    assert webhook in client.webhooks()
    assert client.rotate_webhook(url) == f"https://ci.example/{name}"
    client.remove_webhook(webhook.id)
    assert webhook not in client.webhooks()
    with pytest.raises(InvalidRequest, match="url: "):
        client.add_webhook("nowhere")


def test_deliveries_are_listed_and_sent_again(client: Client, name: str) -> None:
    import_id = client.submit(a_body(name=name, webhook_url="http://127.0.0.1:1/hook"))
    client.wait(import_id, timeout=60)

    deliveries = client.deliveries(import_id=import_id)

    assert deliveries
    assert {delivery.import_id for delivery in deliveries} == {import_id}
    assert client.deliveries(import_id=import_id, limit=1) == deliveries[:1]
    assert client.deliveries(import_id=import_id, state=DeliveryState.DELIVERED) == []
    again = client.resend(deliveries[0].id)
    assert (again.id, again.state) == (deliveries[0].id, DeliveryState.PENDING)


# --- the installation -----------------------------------------------------------------------


def test_every_part_is_checked(client: Client) -> None:
    default = {check.name for check in client.run_checks() if check.ok}
    named = {check.name: check for check in client.run_checks(["sandbox", "nosuch"])}

    parts = {"redis", "ledger", "workers", "watch rule objects"}
    assert parts | {"default cloud, login", "default cloud, quota"} <= default
    assert named["cloud sandbox, login"].ok
    assert named["cloud nosuch, login"].ok is False
    assert named["cloud nosuch, login"].fix
    assert client.check_ledger().ok


# --- keys that are refused, and outages -----------------------------------------------------


@pytest.mark.parametrize("key", [None, "ims_x_y"])
def test_a_missing_or_wrong_key_is_refused(running: Running, key: str | None) -> None:
    api = running.stack.api
    assert api is not None
    with (
        Client(running.stack.settings(api_url=api.url, api_key=key)) as client,
        pytest.raises(KeyRefused),
    ):
        client.list()


def test_a_key_without_the_scope_is_refused_but_learns_the_state(
    running: Running, name: str
) -> None:
    import_id = succeeded(running.client, name).id
    _, text = running.client.create_key(name, scopes=[Scope.SUBMIT])
    api = running.stack.api
    assert api is not None
    with Client(running.stack.settings(api_url=api.url, api_key=text)) as client:
        with pytest.raises(KeyRefused, match="lacks the required scope read"):
            client.get(import_id)
        with pytest.raises(InvalidState):
            client.cancel(import_id)
        client.submit(a_body(name=name), key=name)
        with pytest.raises(InvalidRequest, match="Idempotency-Key: was used for another request"):
            client.submit(a_body(name="other"), key=name)


def test_an_api_that_does_not_run_is_unavailable() -> None:
    with (
        Client(Settings(api_url="http://127.0.0.1:1")) as client,
        pytest.raises(ApiUnavailable),
    ):
        client.prune(older_than=timedelta(days=1))


@contextmanager
def a_client(kind: str, settings: Settings) -> Iterator[Client]:
    """A client of an installation with these settings, in this process."""
    if kind == "direct":
        with Client(settings) as client:
            yield client
        return
    port = free_port()
    config = uvicorn.Config(make_app(settings, auth=False), port=port, log_config=None)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    until(lambda: server.started, "the API runs")
    try:
        with Client(Settings(api_url=f"http://127.0.0.1:{port}")) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join()


@EACH_KIND
def test_without_a_queue_requests_are_recorded_and_workers_unavailable(
    kind: str, sqlite_url: str
) -> None:
    settings = Settings(ledger_url=sqlite_url, redis_url="redis://127.0.0.1:1/0")
    with a_client(kind, settings) as client:
        import_id = client.submit(a_body())

        assert client.get(import_id).state is State.QUEUED
        for operation in (client.resume, client.gc, lambda: client.notify_object("b", "k")):
            with pytest.raises(WorkerUnavailable):
                operation()


@EACH_KIND
def test_without_a_ledger_nothing_is_recorded(kind: str) -> None:
    settings = Settings(
        ledger_url="postgresql+psycopg://nobody@127.0.0.1:1/none",
        redis_url="redis://127.0.0.1:1/0",
    )
    expected = LedgerUnavailable if kind == "direct" else ApiUnavailable
    with a_client(kind, settings) as client:
        with pytest.raises(expected):
            client.submit(a_body())
        assert client.check_ledger().ok is False


# --- the HTTP client needs no ledger --------------------------------------------------------


def test_over_http_no_local_ledger_is_created(running: Running, tmp_path: Path) -> None:
    api = running.stack.api
    assert api is not None
    env = {
        "HOME": str(tmp_path),
        "IMS_IMPORT_LEDGER_URL": f"sqlite:///{tmp_path / 'ledger.db'}",
        "IMS_IMPORT_API_URL": api.url,
        "IMS_IMPORT_API_KEY": api.key,
    }

    checked = running.stack.run("doctor", "--ledger-only", env=env)
    migrated = running.stack.run("doctor", "--ledger-only", "--migrate", env=env)
    secret = running.stack.run("webhooks", "secret", "https://ci.example/hook", env=env)
    listed = running.stack.run("list", env=env)

    assert (checked.returncode, "the API can use its ledger" in checked.stdout) == (0, True)
    assert (migrated.returncode, "--migrate: " in migrated.stderr) == (2, True)
    assert (secret.returncode, listed.returncode) == (2, 0)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_over_http_an_uncertain_import_ends_the_wait_with_exit_code_6(running: Running) -> None:
    api = running.stack.api
    assert api is not None
    fault = {"kind": "500-before", "call": "create"}
    requests.post(f"{running.stack.cloud_url}/admin/faults", json=fault, timeout=10)

    done = running.stack.run(
        "submit", "images:good.qcow2", "--name", "uncertain", "--min-disk", "40", "--wait",
        env={"IMS_IMPORT_API_URL": api.url, "IMS_IMPORT_API_KEY": api.key},
    )  # fmt: skip

    assert done.returncode == 6, done.stderr
    assert "ims-import resolve" in done.stderr


def test_a_response_that_takes_too_long_means_that_no_worker_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        with Client(Settings(api_url=url)) as client, pytest.raises(WorkerUnavailable):
            client.resume(timeout=0.2)
