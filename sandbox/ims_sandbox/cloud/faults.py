"""Faults on demand: what goes wrong, for which call, how often.

A fault comes by the request header `X-Sandbox-Fault: KIND`, by an admin call, or by a seeded
schedule. Kinds that end in `-before` do not act; those in `-after` act and lose the answer.
"""

import random
import threading
from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

HEADER: Final = "X-Sandbox-Fault"
ANY_CALL: Final = "*"


class Kind(StrEnum):
    """What goes wrong."""

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
    FAIL_TOP = "fail-top"
    FAIL_ENTITIES = "fail-entities"
    FAIL_BARE = "fail-bare"

    @property
    def of_jobs(self) -> bool:
        """The job fails; the answer to the request is as ever."""
        return self in (Kind.FAIL_TOP, Kind.FAIL_ENTITIES, Kind.FAIL_BARE)


def kind_of(text: str | None) -> Kind:
    """Raises ValueError with what there is."""
    try:
        return Kind(text or "")
    except ValueError:
        raise ValueError(f"kind: must be one of {', '.join(Kind)}; given: {text!r}") from None


@dataclass(slots=True, kw_only=True)
class Fault:
    """A fault that waits for its call. `seconds` is Retry-After of 429 and the length of slow."""

    kind: Kind
    call: str = ANY_CALL
    times: int | None = 1
    seconds: float = 1.0

    def fits(self, call: str) -> bool:
        if self.times == 0 or (self.kind.of_jobs and call != "create"):
            return False
        return self.call in (ANY_CALL, call)


@dataclass(slots=True)
class Faults:
    """All that shall go wrong, and a count of what did. Thread-safe."""

    waiting: list[Fault] = field(default_factory=list)
    rates: dict[Kind, float] = field(default_factory=dict)
    happened: Counter[str] = field(default_factory=Counter)
    _random: random.Random = field(default_factory=lambda: random.Random(1))  # noqa: S311  # a schedule, no secret
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def schedule(self, seed: int, rates: dict[str, float]) -> None:
        """From now on each kind happens to that share of the calls it fits."""
        known = {kind_of(kind): rate for kind, rate in rates.items()}
        with self._lock:
            self._random = random.Random(seed)  # noqa: S311  # as above
            self.rates = known

    def add(self, fault: Fault) -> None:
        with self._lock:
            self.waiting.append(fault)

    def clear(self) -> None:
        with self._lock:
            self.waiting.clear()
            self.rates.clear()

    def strike(self, call: str, header: str | None) -> Fault | None:
        """The fault of this request, if any."""
        with self._lock:
            fault = self._choose(call, header)
            if fault is not None:
                self.happened[fault.kind] += 1
        return fault

    def _choose(self, call: str, header: str | None) -> Fault | None:
        if header:
            return Fault(kind=kind_of(header))
        for fault in self.waiting:
            if fault.fits(call):
                if fault.times is not None:
                    fault.times -= 1
                return fault
        dice = self._random.random() if self.rates else 1.0
        for kind, rate in self.rates.items():
            if dice < rate:
                fault = Fault(kind=kind)
                # A login carries no token that could be refused: its 401 means the password, which
                # is not bad luck but a person's business, and holds every import.
                luck = not (kind is Kind.UNAUTHORIZED and call == "token")
                return fault if luck and fault.fits(call) else None
            dice -= rate
        return None
