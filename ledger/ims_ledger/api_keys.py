"""API keys control access to the HTTP API; only their hashes are stored."""

import hashlib
import hmac
import secrets
from collections.abc import Callable, Collection
from datetime import datetime
from typing import Any, Final, cast

from pydantic import AwareDatetime
from sqlalchemy import Engine, RowMapping, Table, insert, select, update

from ims_config.records import Frozen, Scope
from ims_ledger.database import transaction
from ims_ledger.errors import NotFound
from ims_ledger.tables import ApiKeyRow

keys = cast("Table", ApiKeyRow.__table__)

# A recognizable prefix lets secret scanners find a committed key.
PREFIX: Final = "ims"
_ID_BYTES: Final = 6
_SECRET_BYTES: Final = 32


class ApiKey(Frozen):
    """An API key without its secret."""

    id: str
    name: str
    scopes: tuple[Scope, ...]
    clouds: tuple[str, ...] | None = None
    """The clouds that it may use; None means all."""
    created_at: AwareDatetime
    expires_at: AwareDatetime | None = None
    revoked_at: AwareDatetime | None = None

    def may(self, scope: Scope) -> bool:
        return scope in self.scopes or Scope.ADMIN in self.scopes

    def knows(self, cloud: str | None) -> bool:
        """Whether it may use this cloud. The workers' default cloud (None) has no name to allow."""
        return self.clouds is None or cloud in self.clouds


class ApiKeys:
    """Every method may raise LedgerUnavailable and LedgerOutdated."""

    def __init__(self, engine: Engine, now: Callable[[], datetime]) -> None:
        self._engine = engine
        self._now = now

    def create(
        self,
        name: str,
        *,
        scopes: Collection[Scope],
        clouds: Collection[str] | None = None,
        expires_at: datetime | None = None,
    ) -> tuple[ApiKey, str]:
        """Create a key; returns it and its text, which cannot be read again."""
        key_id, secret = secrets.token_hex(_ID_BYTES), secrets.token_urlsafe(_SECRET_BYTES)
        row = {
            "id": key_id,
            "name": name,
            "hash": _hash(secret),
            "scopes": sorted(scopes),
            "clouds": None if clouds is None else sorted(clouds),
            "created_at": self._now(),
            "expires_at": expires_at,
        }
        with transaction(self._engine, write=True) as db:
            db.execute(insert(keys).values(row))
        return _key(row), f"{PREFIX}_{key_id}_{secret}"

    def check(self, text: str) -> ApiKey | None:
        """The key with this text; None if it is wrong, expired or revoked."""
        prefix, _, rest = text.partition("_")
        key_id, _, secret = rest.partition("_")
        with transaction(self._engine, write=False) as db:
            row = db.execute(select(keys).where(keys.c.id == key_id)).mappings().first()
        # Also compare for an unknown id, so that the response time reveals nothing.
        right = hmac.compare_digest(_hash(secret), row["hash"] if row else _hash(""))
        if row is None or not right or prefix != PREFIX:
            return None
        key = _key(row)
        expired = key.expires_at is not None and key.expires_at <= self._now()
        return None if expired or key.revoked_at else key

    def all(self) -> list[ApiKey]:
        with transaction(self._engine, write=False) as db:
            rows = db.execute(select(keys).order_by(keys.c.created_at, keys.c.id)).mappings()
            return [_key(row) for row in rows]

    def revoke(self, key_id: str) -> ApiKey:
        """Revoke a key, effective immediately; idempotent. Raises NotFound."""
        mine = keys.c.id == key_id
        with transaction(self._engine, write=True) as db:
            db.execute(
                update(keys).where(mine, keys.c.revoked_at.is_(None)).values(revoked_at=self._now())
            )
            row = db.execute(select(keys).where(mine)).mappings().first()
        if row is None:
            raise NotFound("key", key_id)
        return _key(row)


def _hash(secret: str) -> str:
    # Slow hashes protect passwords that people choose; this secret has 256 random bits.
    return hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()


def _key(row: dict[str, Any] | RowMapping) -> ApiKey:
    return ApiKey.model_validate(dict(row))
