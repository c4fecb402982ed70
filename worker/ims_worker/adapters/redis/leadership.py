"""Elects, through Redis, the one worker whose scheduler runs."""

from datetime import timedelta

from redis import Redis

from ims_config.names import LEADER_KEY
from ims_worker.adapters.redis.scripts import load_script


class Leadership:
    """Every method may raise redis.RedisError."""

    def __init__(self, redis: Redis) -> None:
        self._elect = load_script(redis, "elect")
        self._step_down = load_script(redis, "step_down")

    def elect(self, worker: str, term: timedelta) -> bool:
        """Become or stay the leader for this long; False while another worker leads."""
        term_ms = round(term.total_seconds() * 1000)
        return bool(self._elect(keys=[LEADER_KEY], args=[worker, term_ms]))

    def step_down(self, worker: str) -> None:
        """Let another worker take over at once, if this one leads."""
        self._step_down(keys=[LEADER_KEY], args=[worker])
