"""Pauses that the cloud requested, shared by all workers through Redis.

An expiring key is the pause; losing it costs one more refusal by the cloud.
"""

import logging
from datetime import timedelta
from typing import Final

from redis import Redis, RedisError

logger = logging.getLogger(__name__)

_PREFIX: Final = "ims-import:cooldown"


class RedisCooldowns:
    """Without Redis there is no pause; the cloud refuses again if it needs one."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def rest(self, project: str, *, create: bool) -> timedelta:
        keys = [_key(project, only_creates=False)]
        if create:
            keys.append(_key(project, only_creates=True))
        try:
            with self._redis.pipeline(transaction=False) as pipe:
                for key in keys:
                    pipe.pttl(key)
                left = pipe.execute()
        except RedisError as exc:
            logger.warning("cool-downs unknown", extra={"reason": str(exc)})
            return timedelta(0)
        # PTTL is -2 for a missing key.
        return timedelta(milliseconds=max(0, *left))

    def begin(self, project: str, pause: timedelta, *, only_creates: bool) -> None:
        key, life_ms = _key(project, only_creates=only_creates), round(pause.total_seconds() * 1000)
        if life_ms <= 0:
            return
        try:
            if self._redis.pttl(key) < life_ms:
                self._redis.set(key, "1", px=life_ms)
        except RedisError as exc:
            logger.warning("cool-down not shared", extra={"reason": str(exc)})


def _key(project: str, *, only_creates: bool) -> str:
    return f"{_PREFIX}:{'creates' if only_creates else 'calls'}:{project}"
