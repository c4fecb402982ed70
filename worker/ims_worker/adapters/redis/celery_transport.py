"""A kombu transport for Redis with which a worker survives a restart of Redis.

kombu 5.7.0 acknowledges or rejects a message on the connection that delivered it. If that
connection was lost, kombu reads its parameters, which are gone as well, and raises AttributeError
instead of a connection error; Celery 5.7.0 treats it as unrecoverable and the worker exits (3 of 8
restarts of Redis under load). Delete this module when tests/integration/test_outages.py passes
without it.
"""

from typing import Any, Final

from kombu.transport import TRANSPORT_ALIASES, redis
from redis.exceptions import ConnectionError as RedisConnectionError

_SCHEMES: Final = ("redis", "rediss")


class Channel(redis.Channel):  # type: ignore[misc]  # kombu is untyped
    """Raises an error that Celery recognizes when its connection was lost."""

    def _connparams(self, asynchronous: bool = False) -> Any:  # noqa: FBT001, FBT002  # kombu's
        if self.connection.client is None:
            raise RedisConnectionError("the connection that delivered this message was lost")
        return super()._connparams(asynchronous=asynchronous)


class Transport(redis.Transport):  # type: ignore[misc]  # as above
    Channel = Channel


def install() -> None:
    """Use this transport for every Redis broker of this process."""
    for scheme in _SCHEMES:
        TRANSPORT_ALIASES[scheme] = f"{__name__}:{Transport.__name__}"
