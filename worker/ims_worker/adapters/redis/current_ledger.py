"""Publishes in Redis which ledger the workers use."""

from redis import Redis

from ims_config.names import LEDGER_KEY
from ims_ledger import LedgerNotCurrent


def publish_ledger(redis: Redis, own: str) -> None:
    """Make this ledger the current one if there is none.

    Raises LedgerNotCurrent if another one is current (only `ims-import ledger adopt` replaces it),
    and redis.RedisError.
    """
    with redis.pipeline(transaction=False) as pipe:
        pipe.set(LEDGER_KEY, own, nx=True)
        pipe.get(LEDGER_KEY)
        _, current = pipe.execute()
    if current is not None and current.decode() != own:
        raise LedgerNotCurrent(own, current.decode())
