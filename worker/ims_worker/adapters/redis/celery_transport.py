"""Celery's way to Redis, made to outlive a Redis that goes away while messages are in hand.

kombu 5.7.0 gives a message back, or acknowledges it, on the connection it came by. When that was
lost, it looks for the connection's address, which is gone as well, and raises AttributeError
instead of an error of the connection: Celery 5.7.0 calls it unrecoverable and the worker ends
(3 of 8 restarts of Redis under load). To be deleted when tests/integration/test_outages.py passes
without it.
"""

from typing import Any, Final

from kombu.transport import TRANSPORT_ALIASES, redis
from redis.exceptions import ConnectionError as RedisConnectionError

_SCHEMES: Final = ("redis", "rediss")


class Channel(redis.Channel):  # type: ignore[misc]  # kombu is untyped
    """Says that its connection was lost in words that Celery knows."""

    def _connparams(self, asynchronous: bool = False) -> Any:  # noqa: FBT001, FBT002  # kombu's
        if self.connection.client is None:
            raise RedisConnectionError("the connection that this message came by was lost")
        return super()._connparams(asynchronous=asynchronous)


class Transport(redis.Transport):  # type: ignore[misc]  # as above
    Channel = Channel


def install() -> None:
    """Let this process use it for every broker that is a Redis."""
    for scheme in _SCHEMES:
        TRANSPORT_ALIASES[scheme] = f"{__name__}:{Transport.__name__}"
