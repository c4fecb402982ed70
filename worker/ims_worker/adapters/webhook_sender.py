"""Sends one webhook: a CloudEvent, signed according to Standard Webhooks."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Final

import requests
from standardwebhooks import Webhook

from ims_worker.adapters.otc.http import explain
from ims_worker.adapters.public_http import (
    CONNECT_TIMEOUT_S,
    READ_TIMEOUT_S,
    AllowList,
    Forbidden,
    public_session,
)

CONTENT_TYPE: Final = "application/cloudevents+json; charset=utf-8"
# Longer than an attempt takes, including the name lookup.
DELIVERY_LEASE: Final = timedelta(seconds=120)
# A receiver may request a longer pause than ours, up to this.
LONGEST_RETRY_AFTER: Final = timedelta(hours=12)


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivered:
    """The receiver responded with 2xx."""

    http_status: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """The receiver did not accept it; `final` means that a retry is useless."""

    error: str
    http_status: int | None = None
    final: bool = False
    retry_after: timedelta | None = None


def signed(message_id: str, body: str, secrets: Sequence[str], at: datetime) -> dict[str, str]:
    """The signature headers, with one signature per secret, which allows rotation."""
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": " ".join(
            Webhook(secret).sign(message_id, at, body) for secret in secrets
        ),
    }


def send(
    url: str, message_id: str, body: str, *, secrets: Sequence[str], allowed: AllowList
) -> Delivered | Rejected:
    """Send once. Never raises for errors of the receiver, the network or the address."""
    headers = signed(message_id, body, secrets, datetime.now(UTC))
    headers |= {"Content-Type": CONTENT_TYPE, "User-Agent": "ims-import"}
    try:
        with (
            public_session(allowed) as session,
            session.post(
                url,
                data=body.encode(),
                headers=headers,
                timeout=(CONNECT_TIMEOUT_S, READ_TIMEOUT_S),
                allow_redirects=False,
                # The body of the response may be endless, so it is not read.
                stream=True,
            ) as response,
        ):
            return _outcome(response)
    except Forbidden as exc:
        return Rejected(error=f"refused: {exc}; allow it with IMS_IMPORT_WEBHOOK_ALLOW", final=True)
    except (requests.RequestException, OSError, ValueError) as exc:
        return Rejected(error=explain(exc).message)


def _outcome(response: requests.Response) -> Delivered | Rejected:
    status = response.status_code
    if HTTPStatus(200) <= status < HTTPStatus.MULTIPLE_CHOICES:
        return Delivered(http_status=status)
    error = f"answered {status}"
    if response.is_redirect:
        error += "; redirects are not followed"
    return Rejected(
        error=error,
        http_status=status,
        # Standard Webhooks: 410 unsubscribes the receiver.
        final=status == HTTPStatus.GONE,
        retry_after=_retry_after(response.headers.get("Retry-After", "")),
    )


def _retry_after(text: str) -> timedelta | None:
    """In seconds; receivers hardly ever send a date."""
    if not text.isdecimal() or len(text) > len("999999"):
        return None
    return min(timedelta(seconds=int(text)), LONGEST_RETRY_AFTER)
