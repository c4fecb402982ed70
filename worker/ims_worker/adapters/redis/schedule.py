"""The due schedule in Redis: when each import is polled next.

A ZSET holds the due times in milliseconds of the server's clock. Losing it is harmless: the sweep
rebuilds it from the ledger.
"""

from collections.abc import Collection, Iterable, Sequence
from datetime import timedelta

from redis import Redis

from ims_config.names import DUE_KEY, GENERATION_KEY, LIVE_KEY
from ims_worker.adapters.redis.leases import Lease, read_poll_state, to_ms
from ims_worker.adapters.redis.scripts import load_script
from ims_worker.steps import PollState


class DueSchedule:
    """Any method may raise redis.RedisError without harm."""

    def __init__(self, redis: Redis, *, lease: timedelta) -> None:
        self._redis = redis
        self._lease = lease
        self._claim = load_script(redis, "claim")
        self._restore = load_script(redis, "restore")

    def claim(self, limit: int) -> list[Lease]:
        """At most `limit` due imports, each leased to the new message that is to be sent."""
        claimed: Sequence[bytes | int] = self._claim(
            keys=[DUE_KEY, GENERATION_KEY], args=[to_ms(self._lease), limit]
        )
        return [
            Lease(bytes(import_id).decode(), int(generation))
            for import_id, generation in zip(claimed[::2], claimed[1::2], strict=True)
        ]

    def poll_states(self, import_ids: Sequence[str]) -> list[PollState]:
        """The poll state of each import, in the given order."""
        if not import_ids:
            return []
        return [read_poll_state(text) for text in self._redis.hmget(LIVE_KEY, list(import_ids))]

    def remove(self, import_id: str) -> None:
        """Remove an import that has ended and whose result is stored."""
        with self._redis.pipeline(transaction=True) as pipe:
            pipe.zrem(DUE_KEY, import_id)
            pipe.hdel(GENERATION_KEY, import_id)
            pipe.hdel(LIVE_KEY, import_id)
            pipe.execute()

    def restore(self, import_ids: Iterable[str]) -> int:
        """Add imports that the schedule has lost, due now; returns how many were missing."""
        ids = list(import_ids)
        return int(self._restore(keys=[DUE_KEY, GENERATION_KEY], args=ids)) if ids else 0

    def run_now(self, import_ids: Iterable[str]) -> None:
        """Make imports due now, except those that are not in the schedule."""
        ids = dict.fromkeys(import_ids, 0)
        if ids:
            # XX updates only existing members.
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
