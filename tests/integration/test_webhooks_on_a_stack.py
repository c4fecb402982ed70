"""Webhooks on real workers: what receivers get, in which order, and what is made of bad ones."""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest
from builders import a_body
from receiving import Receiver
from running import Running, until

SUBMIT = ("submit", "images:good.qcow2", "--name", "good", "--min-disk", "40")


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    settings = {"WEBHOOK_PAUSES_S": "0.2,0.2,0.2"}
    with Running.start(api=True, workers=2, settings=settings) as running:
        yield running


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver.running() as receiver:
        yield receiver


def cli(running: Running, *argv: str) -> str:
    done = running.stack.run(*argv)
    assert done.returncode == 0, done.stderr
    return str(done.stdout.strip())


def states(running: Running, import_id: str) -> list[str]:
    """Of the deliveries of an import, the oldest first."""
    return [str(one.state) for one in reversed(running.client.deliveries(import_id=import_id))]


def test_an_import_tells_its_receiver_from_the_job_to_the_image(
    running: Running, receiver: Receiver
) -> None:
    import_id = cli(running, *SUBMIT, "--webhook", f"{receiver.url}?build=4711", "--wait")
    secret = cli(running, "webhooks", "secret", receiver.url)

    until(lambda: "import.succeeded" in receiver.types(), "the end was delivered")
    types = receiver.types(import_id)
    assert (types[0], types[-1]) == ("import.submitted", "import.succeeded")
    assert set(types[1:-1]) <= {"import.progress"}
    for received in receiver.all:
        received.verify(secret)
        assert received.path == "/hook?build=4711"
    last = receiver.all[-1].event["data"]
    assert (last["state"], last["image"]["status"]) == ("SUCCEEDED", "active")


def test_a_failure_is_told_with_its_reason(running: Running, receiver: Receiver) -> None:
    body = a_body(name="broken", image_url="images:broken.qcow2", webhook_url=receiver.url)
    import_id = running.client.submit(body)

    until(lambda: "import.failed" in receiver.types(import_id), "the failure was delivered")

    assert receiver.all[-1].event["data"]["error"]["code"] == "IMG.0057"


def test_who_answers_500_is_told_again_in_order_and_with_the_same_id(
    running: Running, receiver: Receiver
) -> None:
    receiver.answers = [500, 503]

    import_id = running.client.submit(a_body(name="again", webhook_url=receiver.url))

    until(lambda: "import.succeeded" in receiver.types(), "the end was delivered")
    assert receiver.types(import_id)[:3] == ["import.submitted"] * 3
    assert len({received.id for received in receiver.all[:3]}) == 1
    until(lambda: set(states(running, import_id)) == {"delivered"}, "all was delivered")


@pytest.mark.parametrize("bad", ["refused", "redirecting", "500ing"])
def test_what_cannot_be_delivered_is_given_up_and_can_be_sent_again(
    running: Running, receiver: Receiver, bad: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}/hook" if bad == "refused" else receiver.url
    receiver.answers = [302 if bad == "redirecting" else 500] * 100
    receiver.headers = {"Location": receiver.url} if bad == "redirecting" else {}
    import_id = running.client.submit(a_body(name=bad, webhook_url=url))

    until(
        lambda: (known := states(running, import_id)) and known[-1] == "failed" and len(known) > 1,
        "the end was given up",
    )
    assert running.client.wait(import_id, timeout=30).state == "SUCCEEDED"
    listed = cli(running, "webhooks", "deliveries", "--import", import_id)
    assert {"refused": "connection failed", "redirecting": "redirects are not followed"}.get(
        bad, "answered 500"
    ) in listed

    receiver.answers, receiver.headers = [], {}
    with Receiver.running(port=port if bad == "refused" else 0) as back:
        taking = back if bad == "refused" else receiver
        before = len(taking.all)
        ids = [one.id for one in running.client.deliveries(import_id=import_id)]
        cli(running, "webhooks", "resend", *reversed(ids))
        until(lambda: set(states(running, import_id)) == {"delivered"}, "all was taken")
        again = taking.all[before:]
    assert sorted(received.id for received in again) == sorted(ids)
    assert again[0].type == "import.submitted"


def test_a_slow_receiver_delays_neither_imports_nor_other_receivers(running: Running) -> None:
    with Receiver.running() as slow, Receiver.running() as quick:
        slow.gate.clear()
        for number in range(6):
            body = a_body(name=f"slow-{number}", webhook_url=slow.url)
            running.client.submit(body)
        until(lambda: slow.now > 0, "the slow one has something in hand")

        import_id = running.client.submit(a_body(name="quick", webhook_url=quick.url))

        until(lambda: "import.succeeded" in quick.types(import_id), "the quick one knows")
        assert slow.most <= 2
        assert running.client.get(import_id).state == "SUCCEEDED"


def test_what_leads_inwards_is_refused_and_said_in_the_list(running: Running) -> None:
    with Receiver.running("127.0.0.1") as inside:
        port = inside.url.split(":")[2]
        url = f"http://[::1]:{port}"
        import_id = running.client.submit(a_body(name="inwards", webhook_url=url))

        until(lambda: "failed" in states(running, import_id), "it was refused")

        assert inside.all == []
    [first, *_] = reversed(running.client.deliveries(import_id=import_id))
    assert first.error == (
        "refused: ::1 is not a public address; allow it with IMS_IMPORT_WEBHOOK_ALLOW"
    )
    assert first.attempts == 1


def test_the_workers_may_die_while_they_tell(running: Running, receiver: Receiver) -> None:
    receiver.gate.clear()
    import_id = running.client.submit(a_body(name="killed", webhook_url=receiver.url))
    until(lambda: receiver.now > 0, "a worker waits for the receiver")
    for worker in list(running.stack.workers):
        running.stack.kill(worker)
    receiver.gate.set()
    with running.ledger._engine.begin() as db:  # two minutes that nobody wants to wait
        db.exec_driver_sql("UPDATE deliveries SET claimed_until = NULL")
    for _ in range(2):
        running.stack.worker()

    until(lambda: "import.succeeded" in receiver.types(import_id), "the end was delivered")

    assert receiver.all[0].id == receiver.all[1].id
    ids = list(dict.fromkeys(received.id for received in receiver.all))
    known = [one.id for one in reversed(running.client.deliveries(import_id=import_id))]
    assert ids == known


# --- for all imports ------------------------------------------------------------------------


def test_a_webhook_for_all_imports_is_added_rotated_and_removed(
    running: Running, receiver: Receiver
) -> None:
    old = cli(running, "webhooks", "secret", receiver.url)
    webhook = cli(running, "webhooks", "add", receiver.url, "--event", "import.succeeded")
    assert receiver.url in cli(running, "webhooks", "list")
    cli(running, "webhooks", "rotate", receiver.url)
    new = cli(running, "webhooks", "secret", receiver.url)
    assert old != new

    cli(running, *SUBMIT, "--wait")
    until(lambda: receiver.all, "it was delivered")
    assert receiver.types() == ["import.succeeded"]
    receiver.all[0].verify(old)
    receiver.all[0].verify(new)

    cli(running, "webhooks", "remove", webhook)
    assert json.loads(cli(running, "webhooks", "list", "--json")) == []


def test_the_secret_is_shown_only_where_the_workers_key_is(running: Running) -> None:
    env = {name: value for name, value in running.stack.env.items() if "SECRET_KEY" not in name}
    kept, running.stack.env = running.stack.env, env
    try:
        done = running.stack.run("webhooks", "secret", "https://ci.example/hook")
    finally:
        running.stack.env = kept

    assert done.returncode == 2
    assert "run this on a worker host" in done.stderr


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("add", "nowhere"), "url: must be an http or https URL"),
        (("add", "https://a.example", "--event", "x"), "--event x: must be one of import."),
        (("remove", "none"), "no such webhook: none"),
        (("resend", "msg_none"), "no such delivery: msg_none"),
        (("resend",), "use either delivery ids or --failed"),
        (("deliveries", "--state", "x"), "--state x: must be one of pending"),
        (("secret", "nowhere"), "url: must be an http or https URL"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(
    running: Running, argv: tuple[str, ...], message: str
) -> None:
    api = running.stack.api
    assert api is not None
    over_http = {"IMS_IMPORT_API_URL": api.url, "IMS_IMPORT_API_KEY": api.key}
    for door in ({}, over_http):
        done = subprocess.run(
            [sys.executable, "-m", "ims_producer", "webhooks", *argv],
            env=running.stack.env | door, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

        assert (done.returncode, message in done.stderr) == (2, True), done.stderr
        assert len(done.stderr.splitlines()) == 1
