"""Runs a list of periodic duties, some of them only in the elected worker."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from kombu.exceptions import OperationalError
from redis import RedisError

from ims_ledger.errors import LedgerOutdated, LedgerUnavailable

logger = logging.getLogger(__name__)

# A duty that failed runs again after this pause, whatever its interval.
RETRY_PAUSE: Final = timedelta(seconds=1)
OUTAGES: Final = (RedisError, OperationalError, LedgerUnavailable, LedgerOutdated, OSError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Duty:
    """One periodic action; `leader_only`: only the elected worker runs it."""

    name: str
    every: timedelta
    action: Callable[[], object]
    leader_only: bool = True


class Duties:
    """A failing duty neither stops the others nor ends the loop."""

    def __init__(
        self,
        duties: Sequence[Duty],
        *,
        is_leader: Callable[[], bool],
        now: Callable[[], float],
    ) -> None:
        self._duties = duties
        self._is_leader = is_leader
        self._now = now
        self._due_at: dict[str, float] = {}
        self._failing: set[str] = set()

    def run_due(self) -> None:
        """Run, in order, every duty whose interval has passed."""
        for duty in self._duties:
            now = self._now()
            if now < self._due_at.get(duty.name, now) or (
                duty.leader_only and not self._is_leader()
            ):
                continue
            pause = duty.every if self._run(duty) else RETRY_PAUSE
            self._due_at[duty.name] = now + pause.total_seconds()

    def _run(self, duty: Duty) -> bool:
        try:
            duty.action()
        except OUTAGES as exc:
            # Once per outage, not once per second.
            if duty.name not in self._failing:
                logger.warning(
                    "scheduler duty failed", extra={"duty": duty.name, "reason": str(exc)}
                )
            self._failing.add(duty.name)
            return False
        except Exception:
            logger.exception("scheduler duty failed", extra={"duty": duty.name})
            self._failing.add(duty.name)
            return False
        if duty.name in self._failing:
            self._failing.remove(duty.name)
            logger.info("scheduler duty works again", extra={"duty": duty.name})
        return True
