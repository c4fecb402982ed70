"""The webhook contract: events and their CloudEvents form, valid URLs, signing secrets."""

import base64
import hashlib
import hmac
import json
import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Final
from urllib.parse import urlsplit, urlunsplit

from ims_config.records import ImportResult, State

LONGEST_URL: Final = 2048
# Receivers get one progress event per step of this many percent.
PROGRESS_STEP: Final = 25
# The prefix of secrets in Standard Webhooks.
_SECRET_PREFIX: Final = "whsec_"  # noqa: S105  # only a prefix
# For JSON Schema; `check_url` checks more.
URL_PATTERN: Final = r"^https?://[\x21-\x7e]+$"
_PORTS: Final = {"http": 80, "https": 443}


class WebhookEvent(StrEnum):
    """The events that receivers can get; the value is the `type` of a CloudEvent."""

    SUBMITTED = "import.submitted"
    PROGRESS = "import.progress"
    OVERDUE = "import.overdue"
    SUCCEEDED = "import.succeeded"
    FAILED = "import.failed"
    CANCELED = "import.canceled"
    UNCERTAIN = "import.uncertain"
    UNREACHABLE = "import.unreachable"
    REACHABLE = "import.reachable"


_EVENT_OF_KIND: Final = {
    "overdue": WebhookEvent.OVERDUE,
    "unreachable": WebhookEvent.UNREACHABLE,
    "reachable": WebhookEvent.REACHABLE,
}
_EVENT_OF_STATE: Final = {
    State.RUNNING: WebhookEvent.SUBMITTED,
    State.UNCERTAIN: WebhookEvent.UNCERTAIN,
    State.SUCCEEDED: WebhookEvent.SUCCEEDED,
    State.FAILED: WebhookEvent.FAILED,
    State.CANCELED: WebhookEvent.CANCELED,
}


def webhook_event_for(kind: str, to: State | None, *, new_job: bool) -> WebhookEvent | None:
    """The webhook event of a ledger event of this kind, or of a transition to this state."""
    if event := _EVENT_OF_KIND.get(kind):
        return event
    if to is State.RUNNING and not new_job:
        # Tracking of a known job resumes: receivers already got SUBMITTED.
        return None
    return None if to is None else _EVENT_OF_STATE.get(to)


def cloud_event(message_id: str, event: WebhookEvent, record: ImportResult, at: datetime) -> str:
    """The body of a webhook: CloudEvents 1.0, JSON format, structured mode."""
    return json.dumps(
        {
            "specversion": "1.0",
            "id": message_id,
            "source": "/ims-import",
            "type": event.value,
            "subject": record.id,
            "time": at.isoformat().replace("+00:00", "Z"),
            "datacontenttype": "application/json",
            "data": record.model_dump(mode="json"),
        }
    )


def progress_steps(percent: float | None) -> int:
    """The number of completed progress steps."""
    return int((percent or 0) // PROGRESS_STEP)


def check_url(url: str) -> str:
    """Return the URL of a receiver unchanged. Raises ValueError with the rule that it breaks.

    The worker that sends a webhook also checks that the resolved address is allowed.
    """
    if not re.fullmatch(URL_PATTERN, url) or len(url) > LONGEST_URL:
        raise ValueError(
            "must be an http or https URL, e.g. https://ci.example/hooks/images, of at most "
            f"{LONGEST_URL} printable ASCII characters"
        )
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as exc:
        raise ValueError(f"must be an http or https URL: {exc}") from exc
    if not parts.hostname or port == 0:
        raise ValueError("must name a host, e.g. https://ci.example/hooks/images")
    if parts.username is not None or parts.password is not None:
        raise ValueError("must not contain a user or password; webhooks are signed instead")
    if parts.fragment:
        raise ValueError("must not contain a fragment (#…)")
    return url


def endpoint_of(url: str) -> str:
    """The URL without its query: URLs that differ only in the query share one secret."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    port = "" if parts.port in (None, _PORTS.get(parts.scheme)) else f":{parts.port}"
    return urlunsplit((parts.scheme, host + port, parts.path or "/", "", ""))


def secrets_of(keys: Sequence[str], endpoint: str, generations: Iterable[int]) -> list[str]:
    """The secrets of an endpoint, the current one first.

    They are derived from the keys of the workers (several during a rotation), so that no secret is
    stored anywhere.
    """
    return [_secret(key, endpoint, generation) for generation in generations for key in keys]


def _secret(key: str, endpoint: str, generation: int) -> str:
    message = f"ims-import webhook\n{endpoint}\n{generation}".encode()
    digest = hmac.new(key.encode(), message, hashlib.sha256).digest()
    return _SECRET_PREFIX + base64.b64encode(digest).decode()
