"""Fault injection: which fault, for which call, how often.

A fault is requested by the header `X-Sandbox-Fault: KIND`, by an admin call or by a seeded
schedule. Kinds that end in `-before` have no effect on the cloud; kinds that end in `-after` take
effect and lose the response.
"""

import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from ims_sandbox.cloud.responses import Reply, admin_error, gateway_error, ims_error, unauthorized

HEADER: Final = "X-Sandbox-Fault"
ANY_CALL: Final = "*"
_HTML: Final = b"<html><body><h1>502 Bad Gateway</h1></body></html>"


class Kind(StrEnum):
    """Kinds of faults."""

    THROTTLED = "429"
    UNAUTHORIZED = "401"
    ERROR_BEFORE = "500-before"
    ERROR_AFTER = "500-after"
    UNAVAILABLE = "503-before"
    TIMEOUT_AFTER = "504-after"
    DROP_BEFORE = "drop-before"
    DROP_AFTER = "drop-after"
    GARBAGE = "garbage-after"
    TRUNCATED = "truncated-after"
    SLOW = "slow"
    REFUSED = "refused"
    FAIL_TOP = "fail-top"
    FAIL_ENTITIES = "fail-entities"
    FAIL_BARE = "fail-bare"

    @property
    def of_jobs(self) -> bool:
        """Whether the request succeeds and its job fails."""
        return self in (Kind.FAIL_TOP, Kind.FAIL_ENTITIES, Kind.FAIL_BARE)


def parse_kind(text: str | None) -> Kind:
    """The kind; a refusal that lists all kinds if there is none of this name."""
    try:
        return Kind(text or "")
    except ValueError:
        raise admin_error(f"kind: must be one of {', '.join(Kind)}; given: {text!r}") from None


class Dropped(Exception):
    """The connection closes without a response."""


@dataclass(slots=True, kw_only=True)
class Fault:
    """A pending fault. `seconds` is the Retry-After of 429 and the duration of slow."""

    kind: Kind
    call: str = ANY_CALL
    times: int | None = 1
    seconds: float = 1.0
    code: str = "IMG.0061"
    """IMS's error code of `refused` and of a failed job."""
    message: str = "The image could not be created."

    def matches(self, call: str) -> bool:
        if self.times == 0 or (self.kind.of_jobs and call != "create"):
            return False
        return self.call in (ANY_CALL, call)


@dataclass(slots=True)
class Faults:
    """Pending and scheduled faults, and a count of those that occurred. Thread-safe."""

    pending: list[Fault] = field(default_factory=list)
    rates: dict[Kind, float] = field(default_factory=dict)
    occurred: Counter[str] = field(default_factory=Counter)
    _random: random.Random = field(default_factory=lambda: random.Random(1))  # noqa: S311  # not a secret
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def schedule(self, seed: int, rates: dict[str, float]) -> None:
        """From now on, inject each kind into that share of the calls it matches."""
        known = {parse_kind(kind): rate for kind, rate in rates.items()}
        with self._lock:
            self._random = random.Random(seed)  # noqa: S311  # as above
            self.rates = known

    def add(self, fault: Fault) -> None:
        with self._lock:
            self.pending.append(fault)

    def clear(self) -> None:
        with self._lock:
            self.pending.clear()
            self.rates.clear()

    def next_for(self, call: str, header: str | None) -> Fault | None:
        """The fault of this request, if one is due."""
        with self._lock:
            fault = self._choose(call, header)
            if fault is not None:
                self.occurred[fault.kind] += 1
        return fault

    def _choose(self, call: str, header: str | None) -> Fault | None:
        if header:
            return Fault(kind=parse_kind(header))
        for fault in self.pending:
            if fault.matches(call):
                if fault.times is not None:
                    fault.times -= 1
                return fault
        dice = self._random.random() if self.rates else 1.0
        for kind, rate in self.rates.items():
            if dice < rate:
                fault = Fault(kind=kind)
                # A 401 for a login means a wrong password, which blocks every import until a
                # person acts; it is not a random fault.
                random_fault = not (kind is Kind.UNAUTHORIZED and call == "token")
                return fault if random_fault and fault.matches(call) else None
            dice -= rate
        return None


def fail_before(fault: Fault) -> None:
    """Fail before the cloud has acted."""
    match fault.kind:
        case Kind.THROTTLED:
            raise gateway_error(
                429,
                "APIGW.0308",
                "The throttling threshold has been reached: policy user over ratelimit",
                {"Retry-After": f"{fault.seconds:.0f}"},
            )
        case Kind.UNAUTHORIZED:
            raise unauthorized()
        case Kind.ERROR_BEFORE:
            raise ims_error("IMG.0061", "Internal error.", status=500)
        case Kind.UNAVAILABLE:
            raise gateway_error(503, "APIGW.0613", "The backend is unavailable.")
        case Kind.REFUSED:
            raise ims_error(fault.code, fault.message)
        case Kind.DROP_BEFORE:
            raise Dropped
        case Kind.SLOW:
            time.sleep(fault.seconds)


def fail_after(fault: Fault, reply: Reply) -> Reply:
    """Fail after the cloud has acted, while the response is on its way."""
    match fault.kind:
        case Kind.ERROR_AFTER:
            return ims_error("IMG.0061", "Internal error.", status=500).reply
        case Kind.TIMEOUT_AFTER:
            return Reply(status=504, body={"message": "Wait response timeout.", "request_id": "r"})
        case Kind.DROP_AFTER:
            raise Dropped
        case Kind.GARBAGE:
            return Reply(status=200, body=_HTML)
        case Kind.TRUNCATED:
            return replace(reply, truncated=True)
        case _:
            return reply
