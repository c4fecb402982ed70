"""Webhooks: addresses, secrets, which hosts are public, and how long to wait."""

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook, WebhookVerificationError

from ims_config.import_request import InvalidRequest, parse_request
from ims_config.settings import Settings
from ims_config.webhooks import check_url, endpoint_of, secrets_of
from ims_worker.adapters.otc.payloads import to_wire
from ims_worker.adapters.public_http import AllowList, Forbidden, is_public
from ims_worker.adapters.webhook_sender import Rejected, signed
from ims_worker.tasks.webhooks import pause_after

KEY = "c2VjcmV0LWtleS1vZi10aGUtd29ya2Vycy0wMTIzNDU="
OTHER = "YW5vdGhlci1rZXktb2YtdGhlLXdvcmtlcnMtNjc4OTA="
ENDPOINT = "https://ci.example/hook"
NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)


# --- addresses ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "rule"),
    [
        ("ftp://ci.example/", "must be an http or https URL"),
        ("ci.example/hook", "must be an http or https URL"),
        ("https://", "must be an http or https URL"),
        ("https:///hook", "must name a host"),
        ("https://ci.example/a b", "printable ASCII"),
        ("https://ci.example/\x00", "printable ASCII"),
        ("https://me:pass@ci.example/", "must not contain a user or password"),
        ("https://ci.example/#top", "must not contain a fragment"),
        ("https://ci.example:0/", "must name a host"),
        ("https://ci.example:99999/", "Port out of range"),
        ("https://[::1/", "must be an http or https URL: "),
        ("https://ci.example/" + "a" * 2048, "at most 2048"),
    ],
)
def test_an_address_that_cannot_be_called_is_refused_with_the_rule(url: str, rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        check_url(url)


def test_a_request_names_the_field_of_a_wrong_address() -> None:
    with pytest.raises(InvalidRequest, match=r"^webhook_url: must be an http or https URL"):
        parse_request({"name": "a", "image_url": "abc:a", "min_disk": 40, "webhook_url": "nowhere"})


def test_ims_is_not_told_of_the_webhook() -> None:
    request = parse_request(
        {"name": "a", "image_url": "abc:a", "min_disk": 40, "webhook_url": ENDPOINT}
    )

    assert "webhook_url" not in to_wire(request, import_id="1")[1]


@pytest.mark.parametrize(
    "url",
    [
        "https://ci.example/hook?build=4711",
        "https://CI.example/hook",
        "https://ci.example:443/hook",
    ],
)
def test_an_endpoint_is_the_address_without_what_differs_from_call_to_call(url: str) -> None:
    assert endpoint_of(url) == ENDPOINT


@pytest.mark.parametrize(
    "url",
    ["http://ci.example/hook", "https://ci.example:444/hook", "https://ci.example/other",
     "https://[2001:db8::1]:8443/hook"],
)  # fmt: skip
def test_another_endpoint_has_another_secret(url: str) -> None:
    assert check_url(url) == url
    assert secrets_of([KEY], endpoint_of(url), [1]) != secrets_of([KEY], ENDPOINT, [1])


# --- secrets --------------------------------------------------------------------------------


def test_during_a_rotation_both_secrets_verify_and_a_stranger_does_not() -> None:
    old, new = secrets_of([KEY], ENDPOINT, [1])[0], secrets_of([KEY], ENDPOINT, [2])[0]
    now = datetime.now(UTC)

    headers = signed("msg_1", '{"a": 1}', secrets_of([KEY], ENDPOINT, [2, 1]), now)

    for secret in (old, new):
        assert Webhook(secret).verify('{"a": 1}', headers) == {"a": 1}
    with pytest.raises(WebhookVerificationError):
        Webhook(secrets_of([KEY], ENDPOINT, [3])[0]).verify('{"a": 1}', headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(new).verify('{"a": 2}', headers)


def test_during_a_rotation_of_the_workers_key_both_keys_sign() -> None:
    assert secrets_of([OTHER, KEY], ENDPOINT, [1]) == [
        *secrets_of([OTHER], ENDPOINT, [1]),
        *secrets_of([KEY], ENDPOINT, [1]),
    ]


# --- which hosts are public -----------------------------------------------------------------

INWARD = [
    "127.0.0.1", "127.8.9.10", "0.0.0.0", "10.0.0.1", "172.16.0.1", "172.31.255.255",
    "192.168.1.1", "169.254.169.254", "100.64.0.1", "100.100.100.200", "192.0.0.1", "198.18.0.1",
    "224.0.0.1", "240.0.0.1", "255.255.255.255", "192.88.99.1", "203.0.113.7",
    "::", "::1", "fe80::1", "fe80::1%1", "fec0::1", "fc00::1", "fd00:ec2::254", "ff02::1",
    "::ffff:127.0.0.1", "::ffff:7f00:1", "::ffff:169.254.169.254", "::ffff:10.0.0.1",
    "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::a00:1", "2002:7f00:1::", "2002:a00:1::1",
    "2001:0:7f00:1::", "2001:db8::1", "5f00::1", "::127.0.0.1",
]  # fmt: skip


@pytest.mark.parametrize("address", INWARD)
def test_an_address_that_may_lead_inwards_is_not_public(address: str) -> None:
    assert not is_public(ip_address(address))
    with pytest.raises(Forbidden, match="is not a public address"):
        AllowList([]).check("hook.example", ip_address(address))


@pytest.mark.parametrize("address", ["1.1.1.1", "80.158.1.1", "2606:4700::1111", "::ffff:1.1.1.1"])
def test_an_address_of_the_internet_is_public(address: str) -> None:
    assert is_public(ip_address(address))


@given(st.ip_addresses(v=4))
def test_an_address_written_as_ipv6_is_judged_as_what_it_is(address: object) -> None:
    mapped = ip_address(f"::ffff:{address}")

    assert is_public(mapped) == is_public(ip_address(str(address)))


@pytest.mark.parametrize(
    ("allowed", "host", "address"),
    [
        ("10.1.0.0/16", "a.example", "10.1.2.3"),
        ("10.1.0.0/16", "a.example", "::ffff:10.1.2.3"),
        ("fd00::/8, 10.0.0.1", "10.0.0.1", "10.0.0.1"),
        ("fd00::/8", "a.example", "fd12::1"),
        ("Hooks.internal", "hooks.INTERNAL", "192.168.3.4"),
    ],
)
def test_what_is_allowed_may_be_reached(allowed: str, host: str, address: str) -> None:
    AllowList(Settings(webhook_allow=allowed).webhook_allow).check(host, ip_address(address))


def test_what_is_allowed_opens_nothing_else() -> None:
    with pytest.raises(Forbidden, match=r"^a\.example \(10\.2\.0\.1\) is not a public address$"):
        AllowList(["10.1.0.0/16", "hooks.internal"]).check("a.example", ip_address("10.2.0.1"))


# --- pauses ---------------------------------------------------------------------------------


def test_pauses_grow_over_hours_and_then_it_is_given_up() -> None:
    pauses = Settings().webhook_pauses_s
    delays = [pause_after(attempt, Rejected(error="no"), pauses) for attempt in range(1, 9)]

    assert delays[:-1] == sorted(pauses)
    assert sum(pauses, timedelta(0)) > timedelta(hours=12)
    assert delays[-1] is None


def test_a_receiver_may_ask_for_a_longer_pause_but_not_for_a_shorter_one() -> None:
    pauses = Settings(webhook_pauses_s="60,60").webhook_pauses_s

    def asked_for(seconds: int) -> timedelta | None:
        return pause_after(1, Rejected(error="", retry_after=timedelta(seconds=seconds)), pauses)

    assert asked_for(300) == timedelta(seconds=300)
    assert asked_for(1) == timedelta(seconds=60)


def test_what_is_of_no_use_is_not_tried_again() -> None:
    pauses = Settings().webhook_pauses_s

    assert pause_after(1, Rejected(error="refused", final=True), pauses) is None


@pytest.mark.parametrize("text", ["", "5,,6", "five", "-1", "1e9"])
def test_pauses_that_are_no_numbers_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be seconds, separated by commas"):
        Settings(webhook_pauses_s=text)
