"""News of objects over HTTP: from SMN, signed, and from MinIO or Ceph, with a key."""

import base64
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import requests
import yaml
from certificates import Certificate
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from running import Running, until

from ims_producer import Client
from ims_sandbox.process import free_port
from ims_sandbox.stack import http_status

TOPIC = "urn:smn:eu-de:0123456789abcdef:images"
NEVER = "3600"


@dataclass(slots=True)
class Smn:
    """SMN as its guide describes it: signs messages, shows its certificate, takes confirmations."""

    key: RSAPrivateKey
    port: int
    confirmed: list[str] = field(default_factory=list)
    away: bool = False

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}"

    def message(self, type: str, **facts: Any) -> dict[str, Any]:  # noqa: A002  # SMN's own word
        told = {
            "type": type, "message_id": "m-1", "topic_urn": TOPIC, "message": "hello",
            "timestamp": "2026-11-24T12:00:00Z", "signature_version": "v1",
            "signing_cert_url": f"{self.url}/smn/SMN.pem",
        } | facts  # fmt: skip
        if type == "SubscriptionConfirmation":
            told.setdefault("subscribe_url", f"{self.url}/smn/confirm?token=abc")
        fields = {"message", "message_id", "timestamp", "topic_urn", "type"}
        fields |= {"subject"} if type == "Notification" else {"subscribe_url"}
        said = "".join(f"{name}\n{told[name]}\n" for name in sorted(fields) if told.get(name))
        signature = self.key.sign(said.encode(), PKCS1v15(), SHA256())
        return told | {"signature": base64.b64encode(signature).decode()}

    def news(self, key: str, **facts: Any) -> dict[str, Any]:
        return self.message("Notification", message=json.dumps(records(key)), **facts)


def records(*keys: str, event: str = "ObjectCreated:Put", bucket: str = "images") -> dict[str, Any]:
    return {
        "Records": [
            {"eventVersion": "2.0", "eventSource": "aws:s3", "eventName": event,
             "s3": {"bucket": {"name": bucket}, "object": {"key": key, "eTag": "x", "size": 1}}}
            for key in keys
        ]
    }  # fmt: skip


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return Certificate.for_localhost(tmp_path_factory.mktemp("smn"))


@pytest.fixture(scope="module")
def smn(certificate: Certificate) -> Iterator[Smn]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if "confirm" in self.path and not made.away:
                made.confirmed.append(self.path)
            self.send_response(503 if made.away else 200)
            self.end_headers()
            self.wfile.write(certificate.file.read_bytes())

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.socket = certificate.for_a_server().wrap_socket(server.socket, server_side=True)
    made = Smn(certificate.key, server.server_address[1])
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield made
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A worker that would list its bucket once an hour: what is found sooner, it was told of."""
    rules = tmp_path_factory.mktemp("rules") / "watch.yaml"
    rule = {"name": "news", "bucket": "images", "prefix": "in/", "request": {"min_disk": 40}}
    rules.write_text(yaml.safe_dump({"version": 1, "rules": [rule]}))
    settings = {"WATCH_FILE": str(rules), "WATCH_EVERY_S": NEVER}
    with Running.start(settings=settings, api=True) as running:
        yield running


@pytest.fixture(scope="module")
def door(running: Running, smn: Smn, certificate: Certificate) -> Iterator[str]:
    """An API that trusts this SMN's certificate and takes one topic."""
    port = free_port()
    env = running.stack.env | {
        "REQUESTS_CA_BUNDLE": str(certificate.file),
        "IMS_IMPORT_SMN_TOPICS": f"urn:smn:eu-de:0:other, {TOPIC}",
        "IMS_IMPORT_SMN_HOSTS": f"localhost:{smn.port}",
    }
    argv = [sys.executable, "-m", "ims_producer", "api", "--port", str(port)]
    with subprocess.Popen(argv, env=env, stderr=subprocess.DEVNULL) as process:
        url = f"http://127.0.0.1:{port}"
        until(lambda: http_status(f"{url}/readyz") == 200, "the API is ready")
        yield f"{url}/v1/events/obs"
        process.terminate()


def post(url: str, body: Any, key: str | None = None) -> tuple[int, Any]:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    answer = requests.post(url, json=body, headers=headers, timeout=20)
    return answer.status_code, answer.json()


def put(running: Running, key: str) -> Callable[[], bool]:
    """Put a good file there; what is returned says whether it was imported."""
    good = (running.stack.folder / "good.qcow2").read_bytes() + key.encode()
    running.stack.s3().put_object(Bucket="images", Key=key, Body=good)
    url = f"images:{key}"
    return lambda: url in {one.image_url for one in running.client.list(limit=1000)}


# --- SMN ------------------------------------------------------------------------------------


def test_a_subscription_is_confirmed(door: str, smn: Smn) -> None:
    status, told = post(door, smn.message("SubscriptionConfirmation"))

    assert (status, told) == (202, {"objects": 0, "confirmed": True})
    assert smn.confirmed == ["/smn/confirm?token=abc"]


@pytest.mark.parametrize("subject", [None, "", "OBS"])
def test_signed_news_of_an_object_start_its_import(
    running: Running, door: str, smn: Smn, subject: str | None
) -> None:
    key = f"in/smn-{subject}.qcow2"
    imported = put(running, key)

    assert post(door, smn.news(key, subject=subject)) == (202, {"objects": 1, "confirmed": False})
    until(imported, "it was imported")


def test_words_and_goodbyes_start_nothing(door: str, smn: Smn) -> None:
    nothing = (202, {"objects": 0, "confirmed": False})

    assert post(door, smn.message("Notification")) == nothing
    assert post(door, smn.message("Notification", message='{"Event": "s3:TestEvent"}')) == nothing
    assert post(door, smn.message("UnsubscribeConfirmation", subscribe_url="x")) == nothing


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"message": json.dumps(records("in/other"))}, "its signature is invalid"),
        ({"subject": "added"}, "its signature is invalid"),
        ({"signature": "AAAA"}, "its signature is invalid"),
        ({"signature": "no base64!"}, "its signature is invalid"),
        ({"type": "SubscriptionConfirmation"}, "its signature is invalid"),
        ({"topic_urn": "urn:smn:eu-de:1:strange"}, "is not one of IMS_IMPORT_SMN_TOPICS"),
        ({"signing_cert_url": "https://evil.example/SMN.pem"}, "its signing_cert_url is not at"),
        ({"signing_cert_url": "https://localhost@evil.example/"}, "its signing_cert_url is not at"),
        ({"signing_cert_url": "http://127.0.0.1/SMN.pem"}, "its signing_cert_url is not at"),
        ({"signing_cert_url": "https://[::1/"}, "its signing_cert_url is not at"),
    ],
)
def test_what_smn_did_not_sign_for_us_is_refused(
    door: str, smn: Smn, change: dict[str, Any], why: str
) -> None:
    status, problem = post(door, smn.news("in/a") | change)

    assert (status, why in problem["detail"]) == (401, True), problem


def test_a_signed_confirmation_leads_nowhere_else(door: str, smn: Smn) -> None:
    message = smn.message("SubscriptionConfirmation", subscribe_url="https://evil.example/")

    status, problem = post(door, message)

    assert (status, "its subscribe_url is not at" in problem["detail"]) == (401, True)


def test_while_smn_is_away_it_is_asked_to_come_again(door: str, smn: Smn) -> None:
    smn.away = True
    try:
        status, problem = post(door, smn.message("SubscriptionConfirmation"))
        unknown = smn.news("in/a") | {"signing_cert_url": f"{smn.url}/new.pem"}
        assert post(door, unknown)[0] == 503
    finally:
        smn.away = False

    assert (status, "returned HTTP 503" in problem["detail"]) == (503, True)


def test_without_topics_nothing_of_smn_is_taken(running: Running, smn: Smn) -> None:
    api = running.stack.api
    assert api is not None

    status, problem = post(f"{api.url}/v1/events/obs", smn.news("in/a"))

    assert (status, "name it in IMS_IMPORT_SMN_TOPICS" in problem["detail"]) == (401, True)


# --- MinIO, Ceph ----------------------------------------------------------------------------


def test_news_with_a_key_start_imports_however_the_storage_writes_them(
    running: Running, door: str
) -> None:
    api = running.stack.api
    assert api is not None
    imported = [put(running, key) for key in ("in/minio+1.qcow2", "in/ceph+2.qcow2")]
    minio = {"EventName": "s3:ObjectCreated:Put", "Key": "images/x"} | records(
        "in%2Fminio%2B1.qcow2", event="s3:ObjectCreated:Put"
    )

    assert post(door, minio, api.key) == (202, {"objects": 1, "confirmed": False})
    assert post(door, records("in/ceph+2.qcow2"), api.key)[0] == 202

    until(lambda: all(one() for one in imported), "both were imported")


def test_other_news_start_nothing(running: Running, door: str) -> None:
    api = running.stack.api
    assert api is not None

    gone = records("in/a", event="s3:ObjectRemoved:Delete")

    assert post(door, gone, api.key) == (202, {"objects": 0, "confirmed": False})


def test_without_a_key_unsigned_news_are_refused(door: str) -> None:
    assert post(door, records("in/a"))[0] == 401
    assert post(door, records("in/a"), "ims_wrong_key")[0] == 401


def test_a_key_that_may_only_read_is_refused(running: Running, door: str) -> None:
    made = running.stack.run("keys", "create", "--name", "reader", "--scope", "read")

    assert post(door, records("in/a"), made.stdout.strip())[0] == 403


def test_a_client_over_http_can_say_it_too(running: Running) -> None:
    api = running.stack.api
    assert api is not None
    imported = put(running, "in/from-a-client.qcow2")
    with Client(running.stack.settings(api_url=api.url, api_key=api.key)) as client:
        client.notify_object("images", "in/from-a-client.qcow2")

    until(imported, "it was imported")
