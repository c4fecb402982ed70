"""Leases in Redis: the right of one Celery message to work on an import, held by this process.

A hash holds the generation of the one message that counts. Every change is one Lua script on the
server's clock, so that no two workers disagree.
"""

import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from time import monotonic
from typing import Final

from redis import Redis

from ims_config.names import DUE_KEY, GENERATION_KEY, LIVE_KEY
from ims_config.records import Progress, State
from ims_worker.adapters.redis.scripts import load_script
from ims_worker.steps import PollState

# The thread pool has no time limits: another worker takes over a task that runs longer than this.
TASK_DEADLINE: Final = timedelta(seconds=90)


@dataclass(frozen=True, slots=True)
class Lease:
    """The right of one message to work on an import."""

    import_id: str
    generation: int


class Leases:
    """The leases of this process. Any method may raise redis.RedisError without harm."""

    def __init__(self, redis: Redis, *, duration: timedelta) -> None:
        self._duration = duration
        self._acquired_at: dict[Lease, float] = {}
        self._acquire = load_script(redis, "acquire")
        self._reschedule = load_script(redis, "reschedule")
        self._renew = load_script(redis, "renew")

    def acquire(self, import_id: str, generation: int | None) -> tuple[Lease, PollState] | None:
        """Lease the import to one message; None when a newer message exists."""
        leased, state = self._acquire(
            keys=[DUE_KEY, GENERATION_KEY, LIVE_KEY],
            args=[import_id, "" if generation is None else generation, to_ms(self._duration)],
        )
        if not leased:
            return None
        lease = Lease(import_id, int(leased))
        self._acquired_at[lease] = monotonic()
        return lease, read_poll_state(state)

    def reschedule(self, lease: Lease, *, after: timedelta, poll_state: PollState) -> bool:
        """Release, and set the next due time; False when another message has the import."""
        self.release(lease)
        return bool(
            self._reschedule(
                keys=[DUE_KEY, GENERATION_KEY, LIVE_KEY],
                args=[
                    lease.import_id,
                    lease.generation,
                    to_ms(after),
                    _poll_state_json(poll_state),
                ],
            )
        )

    def release(self, lease: Lease) -> None:
        """Stop renewing this lease; it expires by itself."""
        self._acquired_at.pop(lease, None)

    def renew(self) -> None:
        """Renew the leases of this process, except those older than a task's deadline."""
        oldest = monotonic() - TASK_DEADLINE.total_seconds()
        leases = [lease for lease, since in self._acquired_at.copy().items() if since > oldest]
        if leases:
            flat = [part for lease in leases for part in (lease.import_id, lease.generation)]
            self._renew(keys=[DUE_KEY, GENERATION_KEY], args=[to_ms(self._duration), *flat])


def to_ms(span: timedelta) -> int:
    return max(0, round(span.total_seconds() * 1000))


def read_poll_state(text: bytes | str | None) -> PollState:
    """The poll state of an import; an empty one before its first poll."""
    if not text:
        return PollState()
    fields = json.loads(text)
    return PollState(
        polls=int(fields.get("polls", 0)),
        progress=Progress.model_validate(fields),
        state=State(fields["state"]) if fields.get("state") else None,
        status_text=str(fields.get("status_text", "")),
        last_at=datetime.fromisoformat(last) if (last := fields.get("last_poll_at")) else None,
        failures=fields.get("failures"),
    )


def _poll_state_json(state: PollState) -> str:
    return json.dumps(
        state.progress.model_dump(mode="json")
        | {
            "polls": state.polls,
            "state": state.state,
            "status_text": state.status_text,
            "last_poll_at": state.last_at and state.last_at.isoformat(),
            "failures": state.failures,
        }
    )
