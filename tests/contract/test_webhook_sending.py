"""Sends one webhook to real sockets: which hosts are reached, and what each response means."""

import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from certificates import Certificate
from receiving import Receiver

from ims_config.webhooks import secrets_of
from ims_worker.adapters import public_http
from ims_worker.adapters.public_http import AllowList
from ims_worker.adapters.webhook_sender import Delivered, Rejected, send

SECRET = secrets_of(["a-key"], "http://127.0.0.1/hook", [1])[0]
HERE = AllowList(["127.0.0.1"])


def deliver(url: str, allowed: AllowList = HERE) -> Delivered | Rejected:
    return send(url, "msg_1", '{"specversion": "1.0"}', secrets=[SECRET], allowed=allowed)


def why(outcome: Delivered | Rejected) -> str:
    assert isinstance(outcome, Rejected), outcome
    return outcome.error


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver.running() as receiver:
        yield receiver


def test_the_receiver_gets_a_signed_cloud_event(receiver: Receiver) -> None:
    assert deliver(receiver.url) == Delivered(http_status=204)

    [received] = receiver.all
    received.verify(SECRET)
    assert received.headers["content-type"].startswith("application/cloudevents+json")
    assert (received.id, received.body) == ("msg_1", '{"specversion": "1.0"}')


@pytest.mark.parametrize("status", [400, 404, 429, 500, 503])
def test_a_response_other_than_2xx_is_retried(receiver: Receiver, status: int) -> None:
    receiver.answers = [status]

    outcome = deliver(receiver.url)

    assert outcome == Rejected(error=f"answered {status}", http_status=status)


def test_410_is_final(receiver: Receiver) -> None:
    receiver.answers = [410]

    assert deliver(receiver.url) == Rejected(error="answered 410", http_status=410, final=True)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(receiver: Receiver, status: int) -> None:
    with Receiver.running() as inside:
        receiver.answers, receiver.headers = [status], {"Location": inside.url}

        assert why(deliver(receiver.url)) == f"answered {status}; redirects are not followed"
        assert inside.all == []


def test_a_refused_connection_is_retried() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

        outcome = deliver(f"http://127.0.0.1:{port}/")

    assert outcome == Rejected(error="connection failed")


def test_an_unknown_host_name_is_retried() -> None:
    assert deliver("https://no-such-host.invalid/") == Rejected(
        error="the host name cannot be resolved"
    )


def test_an_invalid_host_name_raises_nothing() -> None:
    assert isinstance(deliver(f"https://{'a' * 70}.example/"), Rejected)


# --- inwards --------------------------------------------------------------------------------

SPELLINGS = [
    "127.0.0.1", "2130706433", "0x7f000001", "0177.0.0.1", "127.1", "localhost", "LOCALHOST.",
    "0", "0.0.0.0", "[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::]",
]  # fmt: skip


@pytest.mark.parametrize("host", SPELLINGS)
def test_loopback_is_refused_in_every_spelling(receiver: Receiver, host: str) -> None:
    port = receiver.url.split(":")[2]

    outcome = deliver(f"http://{host}:{port}", AllowList([]))

    assert isinstance(outcome, Rejected)
    assert receiver.all == []
    assert (outcome.final, "is not a public address" in outcome.error) == (True, True)


def test_a_refusal_names_the_setting_that_allows_it(receiver: Receiver) -> None:
    assert why(deliver(receiver.url, AllowList([]))) == (
        "refused: 127.0.0.1 is not a public address; allow it with IMS_IMPORT_WEBHOOK_ALLOW"
    )


class Resolver:
    """A resolver that returns the next addresses at each lookup, as DNS rebinding does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> None:
        self.answers, self.asked = list(answers), 0
        self._really = socket.getaddrinfo
        monkeypatch.setattr(socket, "getaddrinfo", self)

    def __call__(self, host: str, port: int, *args: Any, **kwargs: Any) -> Any:
        if host != "rebinding.example":
            return self._really(host, port, *args, **kwargs)
        self.asked += 1
        addresses = self.answers.pop(0)
        return [found for one in addresses for found in self._really(one, port, *args, **kwargs)]


def test_dns_rebinding_reaches_only_the_checked_address(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = int(receiver.url.split(":")[2].partition("/")[0])
    with Receiver.running("127.0.0.2", port) as inside:
        resolver = Resolver(monkeypatch, ["127.0.0.1"], ["127.0.0.2"])

        outcome = deliver(f"http://rebinding.example:{port}/hook")

    assert outcome == Delivered(http_status=204)
    assert (resolver.asked, len(receiver.all), inside.all) == (1, 1, [])
    assert receiver.all[0].headers["host"] == f"rebinding.example:{port}"


def test_a_name_with_one_internal_address_is_refused(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = receiver.url.split(":")[2].partition("/")[0]
    Resolver(monkeypatch, ["127.0.0.1", "127.0.0.3"])

    outcome = deliver(f"http://rebinding.example:{port}/hook")

    assert "rebinding.example (127.0.0.3) is not a public address" in why(outcome)
    assert receiver.all == []


def test_environment_proxies_are_ignored(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Receiver.running() as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)

        assert deliver(receiver.url) == Delivered(http_status=204)
        assert proxy.all == []


# --- slow -----------------------------------------------------------------------------------


def test_a_silent_receiver_times_out(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ims_worker.adapters.webhook_sender.READ_TIMEOUT_S", 0.3)
    receiver.gate.clear()

    assert deliver(receiver.url) == Rejected(error="no response in time")


def test_a_slow_response_is_cut_off(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(public_http, "TOTAL_S", 0.6)
    receiver.dribble = True
    begun = time.monotonic()

    outcome = deliver(receiver.url)

    assert isinstance(outcome, Rejected)
    assert time.monotonic() - begun < 5


# --- TLS ------------------------------------------------------------------------------------


@pytest.fixture
def certificate(tmp_path: Path) -> Certificate:
    return Certificate.for_localhost(tmp_path)


@pytest.fixture
def tls(certificate: Certificate) -> Iterator[Receiver]:
    with Receiver.running("localhost", tls=certificate.for_a_server()) as receiver:
        yield receiver


def test_the_certificate_must_match_the_name(
    tls: Receiver, certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate.file))

    assert deliver(tls.url, AllowList(["127.0.0.0/8", "::1"])) == Delivered(http_status=204)


def test_a_self_signed_certificate_is_refused(tls: Receiver) -> None:
    outcome = deliver(tls.url, AllowList(["127.0.0.0/8", "::1"]))

    assert outcome == Rejected(error="the certificate is not trusted")
    assert tls.all == []
