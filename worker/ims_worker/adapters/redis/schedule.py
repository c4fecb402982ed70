"""The due schedule in Redis: which import is to be looked at when, and by which one message.

A ZSET holds the times, a hash the generation of the one message that counts. Every change is one
Lua script on the server's clock, so that no two workers can disagree. Losing it all is harmless:
the sweep rebuilds it from the ledger.
"""

import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from importlib.resources import files
from time import monotonic
from typing import Any, Final

from redis import Redis

from ims_config.names import DUE_KEY, GENERATION_KEY, LEADER_KEY, LIVE_KEY
from ims_config.records import Progress
from ims_worker.importer import PollState

# The thread pool knows no time limits: what takes longer than this is somebody else's to take up.
TASK_DEADLINE: Final = timedelta(seconds=90)
_SCRIPTS: Final = files("ims_worker.adapters.redis") / "lua"


@dataclass(frozen=True, slots=True)
class Lease:
    """The right of one message to work on an import."""

    import_id: str
    generation: int


def ms(span: timedelta) -> int:
    return max(0, round(span.total_seconds() * 1000))


class DueSchedule:
    """Any method may raise redis.RedisError; nothing is lost when it does."""

    def __init__(self, redis: Redis, *, lease: timedelta) -> None:
        self._redis = redis
        self._lease = lease
        self._in_hand: dict[Lease, float] = {}
        self._claim = self._script("claim")
        self._acquire = self._script("acquire")
        self._reschedule = self._script("reschedule")
        self._renew = self._script("renew")
        self._restore = self._script("restore")
        self._elect = self._script("elect")
        self._step_down = self._script("step_down")

    def _script(self, name: str) -> Any:
        return self._redis.register_script((_SCRIPTS / f"{name}.lua").read_text())

    def claim(self, limit: int) -> list[Lease]:
        """What is due, at most `limit`; each with a new generation and a lease."""
        answer: Sequence[Any] = self._claim(
            keys=[DUE_KEY, GENERATION_KEY], args=[ms(self._lease), limit]
        )
        return [
            Lease(import_id.decode(), int(generation))
            for import_id, generation in zip(answer[::2], answer[1::2], strict=True)
        ]

    def acquire(self, import_id: str, generation: int | None) -> tuple[Lease, PollState] | None:
        """Hold the import for one message; None when a newer message exists."""
        held, live = self._acquire(
            keys=[DUE_KEY, GENERATION_KEY, LIVE_KEY],
            args=[import_id, "" if generation is None else generation, ms(self._lease)],
        )
        if not held:
            return None
        hold = Lease(import_id, int(held))
        self._in_hand[hold] = monotonic()
        return hold, _live(live)

    def reschedule(self, hold: Lease, *, after: timedelta, live: PollState) -> bool:
        """Let go and set the next time; False when another message has taken the import over."""
        self.release(hold)
        return bool(
            self._reschedule(
                keys=[DUE_KEY, GENERATION_KEY, LIVE_KEY],
                args=[hold.import_id, hold.generation, ms(after), _live_json(live)],
            )
        )

    def release(self, hold: Lease) -> None:
        """No longer renew this hold: its lease runs out by itself."""
        self._in_hand.pop(hold, None)

    def renew(self) -> None:
        """Renew what this process has in hand, but nothing that outlived a task's deadline."""
        oldest = monotonic() - TASK_DEADLINE.total_seconds()
        holds = [hold for hold, begun in self._in_hand.copy().items() if begun > oldest]
        if holds:
            flat = [part for hold in holds for part in (hold.import_id, hold.generation)]
            self._renew(keys=[DUE_KEY, GENERATION_KEY], args=[ms(self._lease), *flat])

    def poll_states(self, import_ids: Sequence[str]) -> list[PollState]:
        """What is known between looks of each import, in the given order."""
        if not import_ids:
            return []
        return [_live(text or b"") for text in self._redis.hmget(LIVE_KEY, list(import_ids))]

    def remove(self, import_id: str) -> None:
        """The import has ended and its result is stored."""
        with self._redis.pipeline(transaction=True) as pipe:
            pipe.zrem(DUE_KEY, import_id)
            pipe.hdel(GENERATION_KEY, import_id)
            pipe.hdel(LIVE_KEY, import_id)
            pipe.execute()

    def restore(self, import_ids: Iterable[str]) -> int:
        """Put back what the schedule has lost; what it has is not touched."""
        ids = list(import_ids)
        return int(self._restore(keys=[DUE_KEY, GENERATION_KEY], args=ids)) if ids else 0

    def run_now(self, import_ids: Iterable[str]) -> None:
        """Let imports that are in the schedule be due now."""
        ids = dict.fromkeys(import_ids, 0)
        if ids:
            # XX: what is not in the schedule is not put there; 0 is long due.
            self._redis.zadd(DUE_KEY, ids, xx=True)

    def scheduled(self, import_ids: Collection[str]) -> set[str]:
        """Those of the imports that are in the schedule."""
        ids = list(import_ids)
        if not ids:
            return set()
        scores = self._redis.zmscore(DUE_KEY, ids)
        return {
            import_id for import_id, score in zip(ids, scores, strict=True) if score is not None
        }

    def elect(self, who: str, lease: timedelta) -> bool:
        return bool(self._elect(keys=[LEADER_KEY], args=[who, ms(lease)]))

    def step_down(self, who: str) -> None:
        self._step_down(keys=[LEADER_KEY], args=[who])


def _live(text: bytes | str) -> PollState:
    if not text:
        return PollState()
    given = json.loads(text)
    return PollState(
        polls=int(given.get("polls", 0)),
        progress=Progress.model_validate(given),
        status_text=str(given.get("status_text", "")),
    )


def _live_json(live: PollState) -> str:
    return json.dumps(
        live.progress.model_dump(mode="json")
        | {"polls": live.polls, "status_text": live.status_text}
    )
