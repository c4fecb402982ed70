"""The HTTP API as other systems use it: a real process, a real worker, plain requests."""

import json
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import requests
from builders import a_body
from running import Running, until

from ims_config.records import Scope, State
from ims_ledger import InvalidState, Ledger
from ims_sandbox.stack import Stack

PROBLEM = "application/problem+json"


class Caller:
    """Sends requests with an API key, or without one."""

    def __init__(self, stack: Stack, key: str | None) -> None:
        assert stack.api is not None
        self.url = stack.api.url
        self.session = requests.Session()
        if key:
            self.session.headers["Authorization"] = f"Bearer {key}"

    def __call__(self, method: str, path: str, **options: Any) -> requests.Response:
        return self.session.request(method, self.url + path, timeout=60, **options)

    def post(self, **body: Any) -> requests.Response:
        return self("POST", "/v1/imports", json=a_body(**body))

    def problem(self, method: str, path: str, status: int, **options: Any) -> dict[str, Any]:
        answer = self(method, path, **options)
        assert answer.status_code == status, answer.text
        assert answer.headers["Content-Type"] == PROBLEM
        problem: dict[str, Any] = answer.json()
        assert problem["status"] == status
        return problem


@pytest.fixture
def caller(running: Running) -> Caller:
    assert running.stack.api is not None
    return Caller(running.stack, running.stack.api.key)


def a_key(running: Running, *scopes: Scope, **limits: Any) -> Caller:
    _, text = running.ledger.api_keys.create("test", scopes=scopes, **limits)
    return Caller(running.stack, text)


# --- imports --------------------------------------------------------------------------------


def test_an_import_is_requested_tracked_and_found(caller: Caller) -> None:
    response = caller.post(name="over-http", image_url="images:good.qcow2", tags={"team": "a"})
    where = response.headers["Location"]
    import_id = response.json()["id"]

    until(lambda: caller("GET", where).json()["state"] == "SUCCEEDED", "it ended")

    assert response.status_code == 202
    assert where == f"/v1/imports/{import_id}"
    assert caller("GET", where).json()["image"]["status"] == "active"
    assert caller("GET", where).json()["requested_by"] == "api:sandbox"
    for query in ("state=SUCCEEDED", "name=over-http", "tag=team=a"):
        found = caller("GET", f"/v1/imports?{query}").json()["items"]
        assert import_id in [item["id"] for item in found]
    steps = [event["to_state"] for event in caller("GET", f"{where}/events").json()["items"]]
    assert (steps[0], steps[-1]) == ("QUEUED", "SUCCEEDED")


def test_the_record_equals_the_one_of_the_command_line(running: Running, caller: Caller) -> None:
    import_id = caller.post(name="same-record").json()["id"]
    until(lambda: running.client.get(import_id).state.terminal, "it ended")

    shown = json.loads(running.stack.run("show", import_id, "--json").stdout)

    assert caller("GET", f"/v1/imports/{import_id}").json() == shown


def test_an_invalid_request_names_each_field_and_is_not_recorded(caller: Caller) -> None:
    before = len(caller("GET", "/v1/imports?limit=200").json()["items"])

    problem = caller.problem("POST", "/v1/imports", 422, json={"name": " a", "min_disk": "x"})
    strict = caller.problem("POST", "/v1/imports", 422, json=a_body(min_disk="40"))

    assert {error["field"] for error in problem["errors"]} == {"name", "min_disk", "image_url"}
    assert [error["field"] for error in strict["errors"]] == ["min_disk"]
    assert len(caller("GET", "/v1/imports?limit=200").json()["items"]) == before


@pytest.mark.parametrize(
    ("body", "detail"),
    [(b"{", "must be JSON"), (b'{"name": "' + b"a" * 1024 * 1024 + b'"}', "at most 1048576 bytes")],
)
def test_invalid_json_and_large_bodies_are_rejected(
    caller: Caller, body: bytes, detail: str
) -> None:
    status = 400 if len(body) < 10 else 413
    headers = {"Content-Type": "application/json"}

    problem = caller.problem("POST", "/v1/imports", status, data=body, headers=headers)
    chunks = caller("POST", "/v1/imports", data=iter([body]), headers=headers)

    assert detail in problem["detail"]
    assert chunks.status_code == status


def test_an_unknown_filter_is_rejected(caller: Caller) -> None:
    problem = caller.problem("GET", "/v1/imports?stat=FAILED", 422)

    assert [error["field"] for error in problem["errors"]] == ["stat"]


def test_pages_contain_each_import_once_while_imports_are_added(
    running: Running, caller: Caller
) -> None:
    created = {running.client.submit(a_body(name="paged")) for _ in range(7)}
    seen: list[str] = []
    query = "name=paged&limit=3"
    cursor = None
    while True:
        page = caller("GET", f"/v1/imports?{query}" + (f"&cursor={cursor}" if cursor else ""))
        seen += [item["id"] for item in page.json()["items"]]
        running.client.submit(a_body(name="paged"))
        cursor = page.json()["next"]
        if cursor is None:
            break

    assert set(seen) == created
    assert len(seen) == len(created)


def test_created_after_is_inclusive_and_created_before_exclusive(
    running: Running, caller: Caller
) -> None:
    record = running.client.get(running.client.submit(a_body(name="in-time")))
    at = record.created_at.isoformat().replace("+00:00", "Z")

    since = caller("GET", f"/v1/imports?name=in-time&created_after={at}").json()["items"]
    until_then = caller("GET", f"/v1/imports?name=in-time&created_before={at}").json()["items"]

    assert [item["id"] for item in since] == [record.id]
    assert until_then == []


# --- idempotency ----------------------------------------------------------------------------


def test_fifty_concurrent_identical_requests_create_one_import(
    running: Running, caller: Caller
) -> None:
    headers = {"Idempotency-Key": "fifty"}

    with ThreadPoolExecutor(50) as pool:
        answers = list(
            pool.map(
                lambda _: caller("POST", "/v1/imports", json=a_body(name="50"), headers=headers),
                range(50),
            )
        )

    assert len({answer.json()["id"] for answer in answers}) == 1
    assert sorted(answer.status_code for answer in answers) == [200] * 49 + [202]
    until(lambda: running.client.get(answers[0].json()["id"]).state.terminal, "it ended")
    assert running.images_of(answers[0].json()["id"]) == 1


def test_a_key_with_a_different_body_is_a_conflict(caller: Caller) -> None:
    headers = {"Idempotency-Key": "conflict"}
    first = caller("POST", "/v1/imports", json=a_body(name="secret-name"), headers=headers)

    problem = caller.problem("POST", "/v1/imports", 409, json=a_body(name="b"), headers=headers)

    assert first.json()["id"] in problem["detail"]
    assert "secret-name" not in problem["detail"]


def test_a_batch_of_a_thousand_has_a_result_for_each_item(running: Running, caller: Caller) -> None:
    running.cloud(job_seconds=(0.1, 0.2))
    items = [{"key": f"b-{n}", "request": a_body(name="batch")} for n in range(997)]
    items += [
        {"request": a_body(name="batch", min_disk=0)},
        {"key": "b-0", "request": a_body(name="another")},
        {"key": "b-1", "request": a_body(name="batch")},
    ]

    answers = caller("POST", "/v1/imports:batch", json={"items": items}).json()["items"]
    too_many = caller.problem("POST", "/v1/imports:batch", 422, json={"items": [items[0]] * 1001})

    assert [answer["index"] for answer in answers] == list(range(1000))
    assert [answer["status"] for answer in answers] == [202] * 997 + [422, 409, 200]
    assert answers[997]["problem"]["errors"][0]["field"] == "min_disk"
    assert answers[999]["id"] == answers[1]["id"]
    assert too_many["errors"][0]["field"] == "items"
    for answer in answers[:997]:
        # Free the slots for the other tests.
        with suppress(InvalidState):
            running.client.cancel(answer["id"])


def test_an_api_killed_after_recording_loses_nothing() -> None:
    """Redis does not respond, so the API blocks between ledger and queue and is killed there."""
    with Running.start(workers=1, api=True) as other:
        caller = Caller(other.stack, other.stack.api.key if other.stack.api else None)
        [valkey] = [part for part in other.stack.processes if part.name == "valkey"]
        [api] = [part for part in other.stack.processes if part.name == "api"]
        assert caller("GET", "/readyz").ok
        valkey.signal(signal.SIGSTOP)
        with ThreadPoolExecutor(1) as pool:
            pending = pool.submit(caller.post, name="orphan")
            until(lambda: bool(other.ledger.imports.page(name="orphan")), "it is recorded")
            api.kill()
            valkey.signal(signal.SIGCONT)
            with pytest.raises(requests.ConnectionError):
                pending.result()

        [record] = other.ledger.imports.page(name="orphan")
        until(lambda: other.states([record.id]) == ["SUCCEEDED"], "it ran", seconds=60)
        assert other.images_of(record.id) == 1


# --- decisions ------------------------------------------------------------------------------


def test_cancel_retry_and_resolve(running: Running, caller: Caller) -> None:
    failed = caller.post(name="fails", image_url="images:broken.qcow2").json()["id"]
    until(lambda: running.states([failed]) == ["FAILED"], "it failed")

    too_late = caller.problem("POST", f"/v1/imports/{failed}/cancel", 409)
    unresolvable = caller.problem(
        "POST", f"/v1/imports/{failed}/resolve", 409, json={"how": "fail"}
    )
    again = caller("POST", f"/v1/imports/{failed}/retry")

    assert "FAILED" in too_late["detail"]
    assert "UNCERTAIN" in unresolvable["detail"]
    assert again.status_code == 202
    assert again.json()["state"] == "QUEUED"
    until(lambda: running.client.get(failed).attempts == 2, "a second attempt")
    running.cloud(job_seconds=(5, 5))
    unwanted = caller.post(name="unwanted").json()["id"]
    canceled = caller("POST", f"/v1/imports/{unwanted}/cancel", json={"leave_image": True})
    running.cloud(job_seconds=(0.5, 1))
    assert canceled.status_code == 202
    until(lambda: running.states([unwanted]) == ["CANCELED"], "it is canceled")


# --- event streams --------------------------------------------------------------------------


def stream(caller: Caller, path: str, **headers: str) -> list[dict[str, str]]:
    """The server-sent events of a path until the server ends the stream."""
    answer = caller("GET", path, headers={"Accept": "text/event-stream"} | headers, stream=True)
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    blocks = answer.text.strip().split("\n\n")
    pairs = ([line.split(": ", 1) for line in block.splitlines()] for block in blocks)
    return [{name: value for name, value in lines if name} for lines in pairs]


def test_an_event_stream_ends_with_the_import_and_can_be_resumed(caller: Caller) -> None:
    import_id = caller.post(name="followed").json()["id"]
    path = f"/v1/imports/{import_id}/events"

    events = stream(caller, path)
    steps = [json.loads(event["data"]) for event in events if event["event"] == "transition"]
    middle = next(event["id"] for event in events if event.get("id"))
    rest = stream(caller, path, **{"Last-Event-ID": middle})
    over = caller(
        "GET", path, headers={"Accept": "text/event-stream", "Last-Event-ID": events[-1]["id"]}
    )

    assert [step["to_state"] for step in steps][-1] == "SUCCEEDED"
    known = [event for event in events if event.get("id")]
    assert rest == known[1:]
    assert over.status_code == 204


# --- authentication and authorization -------------------------------------------------------


@pytest.mark.parametrize("key", [None, "nonsense", "ims_000000000000_nonsense"])
def test_without_a_valid_key_only_health_is_public(running: Running, key: str | None) -> None:
    anonymous = Caller(running.stack, key)

    problem = anonymous.problem("GET", "/v1/imports", 401)

    assert "ims_" in problem["detail"]
    assert anonymous("GET", "/v1/imports").headers["WWW-Authenticate"].startswith("Bearer")
    assert anonymous("GET", "/metrics").status_code == 401
    assert anonymous("GET", "/healthz").ok


def test_a_key_allows_only_its_scopes(running: Running) -> None:
    reader = a_key(running, Scope.READ)
    sender = a_key(running, Scope.SUBMIT)

    import_id = sender.post(name="scoped").json()["id"]

    assert reader("GET", f"/v1/imports/{import_id}").ok
    assert "submit" in reader.problem("POST", "/v1/imports", 403, json=a_body())["detail"]
    assert "read" in sender.problem("GET", f"/v1/imports/{import_id}", 403)["detail"]
    assert (
        sender("POST", f"/v1/imports/{import_id}/resolve", json={"how": "fail"}).status_code == 403
    )


def test_a_key_limited_to_clouds_neither_sees_nor_uses_others(
    running: Running, caller: Caller
) -> None:
    limited = a_key(running, Scope.READ, Scope.SUBMIT, clouds=["sandbox"])
    theirs = caller.post(name="of-the-default-cloud").json()["id"]
    mine = limited.post(name="of-mine", cloud="sandbox").json()["id"]

    problem = limited.problem("POST", "/v1/imports", 403, json=a_body(cloud="other"))
    listed = limited("GET", "/v1/imports?limit=200").json()["items"]

    assert problem["errors"][0]["field"] == "cloud"
    assert limited("GET", f"/v1/imports/{theirs}").status_code == 404
    assert limited("POST", f"/v1/imports/{theirs}/cancel").status_code == 404
    assert limited("GET", f"/v1/imports/{mine}").ok
    assert {item["cloud"] for item in listed} == {"sandbox"}


def test_a_key_limited_to_clouds_cannot_remove_its_limit(running: Running, caller: Caller) -> None:
    limited = a_key(running, Scope.ADMIN, clouds=["sandbox"])
    new = {"name": "free", "scopes": ["admin"]}
    adopt = {"job_id": "job-of-others", "name": "theirs"}
    assert caller("POST", "/v1/imports:adopt", json=adopt).status_code == 202

    limited.problem("POST", "/v1/keys", 403, json=new)
    limited.problem("GET", "/v1/keys", 403)
    limited.problem("GET", "/v1/doctor", 403)
    limited.problem("POST", "/v1/imports:prune", 403, json={"older_than_s": 0})
    limited.problem("POST", "/v1/clouds:gc", 403, json={"cloud": "other"})
    limited.problem("POST", "/v1/imports:adopt", 404, json=adopt | {"cloud": "sandbox"})


def test_expired_and_revoked_keys_are_rejected(running: Running) -> None:
    expired = a_key(running, Scope.READ, expires_at=datetime.now(UTC) - timedelta(seconds=1))
    key, text = running.ledger.api_keys.create("short", scopes=[Scope.READ])
    revoked = Caller(running.stack, text)
    assert revoked("GET", "/v1/imports").ok

    done = running.stack.run("keys", "revoke", key.id)

    assert "is revoked" in done.stdout
    assert revoked("GET", "/v1/imports").status_code == 401
    assert expired("GET", "/v1/imports").status_code == 401


def test_the_ledger_contains_no_key(running: Running) -> None:
    done = running.stack.run("keys", "create", "--name", "ci", "--scope", "submit", "--json")
    created = json.loads(done.stdout)
    secret = created["key"].split("_", 2)[2]

    kept = b"".join(path.read_bytes() for path in running.stack.folder.glob("ledger.db*"))
    listed = running.stack.run("keys", "list", "--json").stdout

    assert created["id"] in listed
    assert secret.encode() not in kept
    assert secret not in listed


def test_a_key_over_its_rate_limit_gets_retry_after() -> None:
    with Running.start(workers=0, api=True, settings={"API_RATE_PER_MINUTE": "5"}) as running:
        fast, other = a_key(running, Scope.READ), a_key(running, Scope.READ)
        answers = [fast("GET", "/v1/imports") for _ in range(8)]
        calm = other("GET", "/v1/imports")

    assert [answer.status_code for answer in answers] == [200] * 5 + [429] * 3
    assert 1 <= int(answers[-1].headers["Retry-After"]) <= 60
    assert answers[-1].headers["Content-Type"] == PROBLEM
    assert calm.ok


def test_no_auth_requires_a_loopback_address(running: Running) -> None:
    done = running.stack.run("api", "--no-auth", "--host", "0.0.0.0")

    assert done.returncode == 2
    assert "requires a loopback address such as 127.0.0.1" in done.stderr


# --- health ---------------------------------------------------------------------------------


def test_health_readiness_and_metrics(caller: Caller) -> None:
    metrics = caller("GET", "/metrics").text

    assert caller("GET", "/healthz").json() == {"status": "ok"}
    assert caller("GET", "/readyz").json() == {"ledger": "ok", "queue": "ok"}
    assert 'ims_import_imports{state="SUCCEEDED"}' in metrics
    assert 'ims_import_http_requests_total{method="POST",operation="/v1/imports"' in metrics


def test_an_outdated_ledger_is_not_ready_and_records_nothing() -> None:
    with Running.start(workers=0, api=True) as running:
        caller = Caller(running.stack, running.stack.api.key if running.stack.api else None)
        ledger = Ledger(running.stack.settings().ledger)
        with ledger._engine.begin() as db:
            db.exec_driver_sql("ALTER TABLE imports RENAME TO hidden")
        problem = caller.problem("POST", "/v1/imports", 503, json=a_body())
        with ledger._engine.begin() as db:
            db.exec_driver_sql("ALTER TABLE hidden RENAME TO imports")
        ledger.close()

        assert "nothing was recorded" in problem["detail"]
        assert caller.post(name="afterwards").status_code == 202
        assert [record.name for record in running.client.list()] == ["afterwards"]


def test_the_documentation_page_loads_no_external_assets(caller: Caller) -> None:
    page = caller("GET", "/docs").text

    assert "http://" not in page
    assert "https://" not in page
    for asset in ("swagger-ui-bundle.js", "swagger-ui.css"):
        assert caller("GET", f"/static-offline-docs/{asset}").ok


def test_the_document_lists_all_states(caller: Caller) -> None:
    document = caller("GET", "/openapi.json").json()

    assert document["components"]["schemas"]["State"]["enum"] == [str(state) for state in State]
