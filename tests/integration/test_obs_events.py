"""Object events over HTTP: signed ones from SMN, and from MinIO or Ceph with a key."""

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
    """SMN as in its guide: signs messages, serves its certificate, accepts confirmations."""

    key: RSAPrivateKey
    port: int
    confirmed: list[str] = field(default_factory=list)
    unavailable: bool = False

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}"

    def message(self, type: str, **facts: Any) -> dict[str, Any]:  # noqa: A002  # SMN's own word
        message = {
            "type": type, "message_id": "m-1", "topic_urn": TOPIC, "message": "hello",
            "timestamp": "2026-11-24T12:00:00Z", "signature_version": "v1",
            "signing_cert_url": f"{self.url}/smn/SMN.pem",
        } | facts  # fmt: skip
        if type == "SubscriptionConfirmation":
            message.setdefault("subscribe_url", f"{self.url}/smn/confirm?token=abc")
        fields = {"message", "message_id", "timestamp", "topic_urn", "type"}
        fields |= {"subject"} if type == "Notification" else {"subscribe_url"}
        signed = "".join(
            f"{name}\n{message[name]}\n" for name in sorted(fields) if message.get(name)
        )
        signature = self.key.sign(signed.encode(), PKCS1v15(), SHA256())
        return message | {"signature": base64.b64encode(signature).decode()}

    def event(self, key: str, **facts: Any) -> dict[str, Any]:
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
            if "confirm" in self.path and not fake.unavailable:
                fake.confirmed.append(self.path)
            self.send_response(503 if fake.unavailable else 200)
            self.end_headers()
            self.wfile.write(certificate.file.read_bytes())

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.socket = certificate.for_a_server().wrap_socket(server.socket, server_side=True)
    fake = Smn(certificate.key, server.server_address[1])
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield fake
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A worker that lists its bucket once an hour, so that earlier imports come from events."""
    rules = tmp_path_factory.mktemp("rules") / "watch.yaml"
    rule = {"name": "news", "bucket": "images", "prefix": "in/", "request": {"min_disk": 40}}
    rules.write_text(yaml.safe_dump({"version": 1, "rules": [rule]}))
    settings = {"WATCH_FILE": str(rules), "WATCH_EVERY_S": NEVER}
    with Running.start(settings=settings, api=True) as running:
        yield running


@pytest.fixture(scope="module")
def events_url(running: Running, smn: Smn, certificate: Certificate) -> Iterator[str]:
    """The URL of an API that trusts the certificate of this SMN and accepts one topic."""
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
    """Upload a valid file; returns a function that checks whether it was imported."""
    good = (running.stack.folder / "good.qcow2").read_bytes() + key.encode()
    running.stack.s3().put_object(Bucket="images", Key=key, Body=good)
    url = f"images:{key}"
    return lambda: url in {one.image_url for one in running.client.list(limit=1000)}


# --- SMN ------------------------------------------------------------------------------------


def test_a_subscription_is_confirmed(events_url: str, smn: Smn) -> None:
    status, receipt = post(events_url, smn.message("SubscriptionConfirmation"))

    assert (status, receipt) == (202, {"objects": 0, "confirmed": True})
    assert smn.confirmed == ["/smn/confirm?token=abc"]


@pytest.mark.parametrize("subject", [None, "", "OBS"])
def test_a_signed_object_event_starts_an_import(
    running: Running, events_url: str, smn: Smn, subject: str | None
) -> None:
    key = f"in/smn-{subject}.qcow2"
    imported = put(running, key)

    assert post(events_url, smn.event(key, subject=subject)) == (
        202,
        {"objects": 1, "confirmed": False},
    )
    until(imported, "it was imported")


def test_text_and_unsubscriptions_start_no_import(events_url: str, smn: Smn) -> None:
    nothing = (202, {"objects": 0, "confirmed": False})

    assert post(events_url, smn.message("Notification")) == nothing
    assert (
        post(events_url, smn.message("Notification", message='{"Event": "s3:TestEvent"}'))
        == nothing
    )
    assert post(events_url, smn.message("UnsubscribeConfirmation", subscribe_url="x")) == nothing


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
def test_messages_without_a_valid_signature_or_topic_are_rejected(
    events_url: str, smn: Smn, change: dict[str, Any], why: str
) -> None:
    status, problem = post(events_url, smn.event("in/a") | change)

    assert (status, why in problem["detail"]) == (401, True), problem


def test_a_confirmation_url_of_another_host_is_rejected(events_url: str, smn: Smn) -> None:
    message = smn.message("SubscriptionConfirmation", subscribe_url="https://evil.example/")

    status, problem = post(events_url, message)

    assert (status, "its subscribe_url is not at" in problem["detail"]) == (401, True)


def test_an_outage_of_smn_is_503(events_url: str, smn: Smn) -> None:
    smn.unavailable = True
    try:
        status, problem = post(events_url, smn.message("SubscriptionConfirmation"))
        unknown = smn.event("in/a") | {"signing_cert_url": f"{smn.url}/new.pem"}
        assert post(events_url, unknown)[0] == 503
    finally:
        smn.unavailable = False

    assert (status, "returned HTTP 503" in problem["detail"]) == (503, True)


def test_without_topics_messages_of_smn_are_rejected(running: Running, smn: Smn) -> None:
    api = running.stack.api
    assert api is not None

    status, problem = post(f"{api.url}/v1/events/obs", smn.event("in/a"))

    assert (status, "name it in IMS_IMPORT_SMN_TOPICS" in problem["detail"]) == (401, True)


# --- MinIO, Ceph ----------------------------------------------------------------------------


def test_events_with_a_key_start_imports_in_either_key_encoding(
    running: Running, events_url: str
) -> None:
    api = running.stack.api
    assert api is not None
    imported = [put(running, key) for key in ("in/minio+1.qcow2", "in/ceph+2.qcow2")]
    minio = {"EventName": "s3:ObjectCreated:Put", "Key": "images/x"} | records(
        "in%2Fminio%2B1.qcow2", event="s3:ObjectCreated:Put"
    )

    assert post(events_url, minio, api.key) == (202, {"objects": 1, "confirmed": False})
    assert post(events_url, records("in/ceph+2.qcow2"), api.key)[0] == 202

    until(lambda: all(one() for one in imported), "both were imported")


def test_other_events_start_no_import(running: Running, events_url: str) -> None:
    api = running.stack.api
    assert api is not None

    gone = records("in/a", event="s3:ObjectRemoved:Delete")

    assert post(events_url, gone, api.key) == (202, {"objects": 0, "confirmed": False})


def test_unsigned_events_without_a_key_are_rejected(events_url: str) -> None:
    assert post(events_url, records("in/a"))[0] == 401
    assert post(events_url, records("in/a"), "ims_wrong_key")[0] == 401


def test_a_key_without_the_scope_submit_is_rejected(running: Running, events_url: str) -> None:
    created = running.stack.run("keys", "create", "--name", "reader", "--scope", "read")

    assert post(events_url, records("in/a"), created.stdout.strip())[0] == 403


def test_a_client_reports_an_object_over_http(running: Running) -> None:
    api = running.stack.api
    assert api is not None
    imported = put(running, "in/from-a-client.qcow2")
    with Client(running.stack.settings(api_url=api.url, api_key=api.key)) as client:
        client.notify_object("images", "in/from-a-client.qcow2")

    until(imported, "it was imported")
