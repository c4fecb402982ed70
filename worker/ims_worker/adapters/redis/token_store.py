"""The token that all workers share, in Redis, encrypted with the secret key."""

import hashlib
import hmac
import json
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Final

from cryptography.fernet import InvalidToken, MultiFernet
from pydantic import ValidationError
from redis import Redis

from ims_config.records import Failure, Frozen
from ims_worker.adapters.otc.tokens import (
    LOGIN_PAUSE,
    REFRESH_PAUSE,
    Access,
    LoginBackoff,
    TokenState,
    read_state,
)
from ims_worker.adapters.redis.scripts import load_script
from ims_worker.errors import Unavailable

# Longer than a login with its timeouts (LOGIN_READ_S) takes.
LOCK: Final = timedelta(seconds=30)
# The number of refusals in a row is remembered this long after a backoff has ended.
BACKOFF_MEMORY: Final = timedelta(days=1)


def identity_name(secret: str, identity: Mapping[str, str]) -> str:
    """A name for credentials that reveals nothing about them without the secret key."""
    text = json.dumps(dict(identity), sort_keys=True)
    return hmac.new(secret.encode(), text.encode(), hashlib.sha256).hexdigest()


class _LoginPause(Frozen):
    """IAM was not available: no worker logs in while this exists in Redis."""

    failure: Failure
    tried: str
    pause_s: float


class RedisTokenStore:
    """The token of the credentials with this name."""

    def __init__(self, redis: Redis, fernet: MultiFernet, name: str) -> None:
        self._redis = redis
        self._fernet = fernet
        self._token_key = f"ims-import:token:{name}"
        self._backoff_key = f"ims-import:hold:{name}"
        self._pause_key = f"ims-import:token-pause:{name}"
        self._lock_key = f"ims-import:token-lock:{name}"
        self._fence_key = f"ims-import:token-fence:{name}"
        self._refresh_pause_key = f"ims-import:token-distrust:{name}"
        self._lock = load_script(redis, "token_lock")
        self._unlock = load_script(redis, "token_unlock")
        self._save = load_script(redis, "token_save")
        self._drop = load_script(redis, "token_drop")

    def read(self, now: datetime) -> TokenState:
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.hget(self._token_key, "state")
            pipe.get(self._backoff_key)
            pipe.get(self._pause_key)
            token, backoff, pause = pipe.execute()
        return TokenState(
            token=self._decrypted(token, now), backoff=_backoff(backoff), pause=_pause(pause)
        )

    def lock(self, owner: str) -> int | None:
        """The fencing number, or None while another worker logs in."""
        keys = [self._lock_key, self._fence_key]
        fence = int(self._lock(keys=keys, args=[owner, _ms(LOCK)]))
        return fence or None

    def unlock(self, owner: str) -> None:
        self._unlock(keys=[self._lock_key], args=[owner])

    def save(self, token: Access, *, fence: int, now: datetime) -> None:
        encrypted = self._fernet.encrypt(token.state.encode()).decode()
        life = max(token.expires_at - now, timedelta(seconds=1))
        keys = [self._token_key, self._backoff_key, self._pause_key]
        self._save(keys=keys, args=[fence, token.digest, encrypted, _ms(life)])

    def drop(self, digest: str) -> bool:
        """Drop the token if it still is this one; False when refreshing is paused."""
        return bool(self._drop(keys=[self._token_key, self._refresh_pause_key], args=[digest]))

    def pause_refresh(self) -> None:
        self._redis.set(self._refresh_pause_key, 1, px=_ms(REFRESH_PAUSE))

    def back_off(self, backoff: LoginBackoff, *, now: datetime) -> None:
        life = backoff.next_at - now + BACKOFF_MEMORY
        self._redis.set(self._backoff_key, backoff.model_dump_json(by_alias=True), px=_ms(life))

    def pause_logins(self, problem: Unavailable) -> None:
        pause = max(problem.retry_after or LOGIN_PAUSE, timedelta(seconds=1))
        stored = _LoginPause(
            failure=problem.failure, tried=problem.tried, pause_s=pause.total_seconds()
        )
        self._redis.set(self._pause_key, stored.model_dump_json(by_alias=True), px=_ms(pause))

    def allow_login(self) -> None:
        self._redis.delete(self._backoff_key, self._pause_key)

    def _decrypted(self, token: bytes | str | None, now: datetime) -> Access | None:
        """A token that was encrypted with an unknown key counts as none."""
        if not token:
            return None
        with suppress(InvalidToken, ValueError, KeyError, TypeError, AttributeError):
            return read_state(self._fernet.decrypt(token).decode(), now=now)
        return None


def _backoff(text: bytes | str | None) -> LoginBackoff | None:
    with suppress(ValidationError):
        return LoginBackoff.model_validate_json(text) if text else None
    return None


def _pause(text: bytes | str | None) -> Unavailable | None:
    with suppress(ValidationError):
        stored = _LoginPause.model_validate_json(text or b"")
        pause = timedelta(seconds=stored.pause_s)
        return Unavailable(stored.failure, tried=stored.tried, retry_after=pause)
    return None


def _ms(span: timedelta) -> int:
    return max(int(span.total_seconds() * 1000), 1)
