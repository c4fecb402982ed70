"""One token for a whole fleet: shared encrypted in Redis, fetched once, refreshed in good time.

Threads share it through a lock, processes and machines through Redis. Without Redis, or without
a secret key, each process keeps a token of its own and everything still works.
"""

import hashlib
import hmac
import json
import logging
import random
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Protocol

from cryptography.fernet import InvalidToken, MultiFernet
from keystoneauth1 import access
from redis import Redis
from redis.exceptions import RedisError

from ims_config.records import ErrorClass, Failure
from ims_worker.adapters.otc.error_catalog import Meaning, meaning_of
from ims_worker.errors import CloudProblem, LoginRefused, Unavailable

logger = logging.getLogger(__name__)

# Past `soft` a token is refreshed; past `usable` it may die on the wire.
EARLIEST_REFRESH: Final = timedelta(seconds=300)
REFRESH_SHARE: Final = 0.1
EXPIRY_MARGIN: Final = timedelta(seconds=30)
# Five wrong passwords within 15 minutes lock an account of OTC.
FIRST_BACKOFF: Final = timedelta(seconds=300)
MAX_BACKOFF: Final = timedelta(seconds=3600)
LOCKED_BACKOFF: Final = timedelta(seconds=900)
# How long the number of refusals is remembered after a hold has run out.
BACKOFF_MEMORY: Final = timedelta(days=1)
# IAM was away: the fleet asks again together, not each for itself.
PAUSE: Final = timedelta(seconds=5)
# A new token that is refused as well is no reason to fetch yet another.
DISTRUST: Final = timedelta(seconds=60)
# Longer than a login with its timeouts (LOGIN_READ_S) takes.
LOCK: Final = timedelta(seconds=30)
LOGIN_READ_S: Final = 8.0
LOOK_EVERY_S: Final = (0.05, 0.2)
LOOKS: Final = 320
# A process that could not refresh a token that still works does not try again at once.
RELAX: Final = timedelta(seconds=15)

Now = Callable[[], datetime]


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """A token and what IAM said with it."""

    state: str = field(repr=False)
    """keystoneauth's auth state: token, catalogue, project. Never logged, never stored plain."""
    info: access.AccessInfo = field(repr=False, compare=False)
    soft: datetime
    expires_at: datetime

    @property
    def token(self) -> str:
        return str(self.info.auth_token)

    @property
    def digest(self) -> str:
        """Tells tokens apart without being one."""
        return hashlib.sha256(self.token.encode()).hexdigest()

    def fresh(self, now: datetime) -> bool:
        return now < self.soft

    def usable(self, now: datetime) -> bool:
        return now < self.expires_at - EXPIRY_MARGIN


def read_state(state: str, *, now: datetime) -> Access:
    """The auth state of keystoneauth as an Access; ValueError or KeyError when it is none."""
    content = json.loads(state)
    info = access.create(body=content["body"], auth_token=content["auth_token"])
    expires = info.expires
    expires = expires if expires.tzinfo else expires.replace(tzinfo=UTC)
    issued = info.issued or now
    issued = issued if issued.tzinfo else issued.replace(tzinfo=UTC)
    early = max(EARLIEST_REFRESH, (expires - issued) * REFRESH_SHARE)
    return Access(state=state, info=info, soft=expires - early, expires_at=expires)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginBackoff:
    """IAM refused, and nobody asks again before `next_at`."""

    failure: Failure
    tries: int
    next_at: datetime

    def problem(self, now: datetime) -> LoginRefused:
        return LoginRefused(
            self.failure,
            tried=f"log in at IAM (on hold until {self.next_at:%Y-%m-%dT%H:%M:%SZ})",
            retry_after=max(self.next_at - now, timedelta(seconds=1)),
        )

    def told(self, problem: LoginRefused, now: datetime) -> LoginRefused:
        """The refusal that led to this hold, with the pause until the next attempt."""
        return LoginRefused(problem.failure, tried=problem.tried, retry_after=self.next_at - now)

    def as_json(self) -> str:
        return json.dumps(
            {
                "failure": self.failure.model_dump(mode="json", by_alias=True),
                "tries": self.tries,
                "next_at": self.next_at.isoformat(),
            }
        )

    @classmethod
    def after(
        cls, problem: LoginRefused, before: "LoginBackoff | None", *, now: datetime
    ) -> "LoginBackoff":
        """The pause grows with each refusal in a row."""
        tries = (before.tries if before else 0) + 1
        pause = min(FIRST_BACKOFF * 2 ** min(tries - 1, 8), MAX_BACKOFF)
        if meaning_of(problem.failure.code) is Meaning.ACCOUNT_LOCKED:
            pause = max(pause, LOCKED_BACKOFF)
        return cls(failure=problem.failure, tries=tries, next_at=now + pause)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenState:
    """What the fleet knows at this moment."""

    token: Access | None = None
    hold: LoginBackoff | None = None
    pause: Unavailable | None = None

    def closed(self, now: datetime) -> CloudProblem | None:
        """Why IAM is not to be asked now."""
        if self.hold is not None and now < self.hold.next_at:
            return self.hold.problem(now)
        return self.pause


class TokenStore(Protocol):
    """Where a fleet keeps its token. Every call may raise RedisError."""

    def look(self, now: datetime) -> TokenState: ...
    def lock(self, owner: str) -> int | None: ...
    def unlock(self, owner: str) -> None: ...
    def save(self, token: Access, *, fence: int, now: datetime) -> None: ...
    def drop(self, digest: str) -> bool: ...
    def distrust(self) -> None: ...
    def hold(self, hold: LoginBackoff, *, now: datetime) -> None: ...
    def pause(self, problem: Unavailable) -> None: ...
    def release(self) -> None: ...


class SharedToken:
    """The token of one cloud in this process, and through the vault in the fleet."""

    def __init__(
        self,
        login: Callable[[], str],
        vault: TokenStore | None,
        *,
        now: Now = lambda: datetime.now(UTC),
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._login = login
        self._vault = vault
        self._now = now
        self._sleep = sleep
        self._lock = threading.Lock()
        self._hot: Access | None = None
        self._relaxed_until = datetime.min.replace(tzinfo=UTC)
        self._distrust_until = self._relaxed_until
        self._own = TokenState()
        self._own_pause_until = self._relaxed_until
        self._warned = False

    @property
    def is_shared(self) -> bool:
        """Whether the fleet logs in once, or each process for itself."""
        return self._vault is not None

    def current(self) -> Access:
        """A token that is good for one more call. Raises LoginRefused or Unavailable."""
        hot, now = self._hot, self._now()
        if hot is not None and (hot.fresh(now) or self._relaxed(hot, now)):
            return hot
        # While one thread refreshes, the others go on with what still works.
        wait = hot is None or not hot.usable(now)
        if not self._lock.acquire(blocking=wait):
            assert hot is not None  # noqa: S101  # nobody goes on without a token
            return hot
        try:
            return self._renewed()
        finally:
            self._lock.release()

    def replace(self, refused: Access) -> Access | None:
        """Another token for one that IMS refused; None when there is no better one.

        Drops only that very token: whoever comes late with an old one gets the new one.
        """
        if self._hot is not None and self._hot.token == refused.token:
            if self._now() < self._distrust_until:
                return None
            self._hot = None
        try:
            if self._vault is not None and not self._vault.drop(refused.digest):
                return None
        except RedisError as exc:
            self._warn(exc)
        found = self.current()
        return None if found.token == refused.token else found

    def distrust(self) -> None:
        """A new token was refused as well: for a while refusals fetch no others."""
        self._distrust_until = self._now() + DISTRUST
        if self._vault is not None:
            with suppress(RedisError):
                self._vault.distrust()

    def release(self) -> None:
        """End a hold, after a person corrected the credentials."""
        self._own = TokenState()
        self._own_pause_until = self._now()
        if self._vault is None:
            return
        try:
            self._vault.release()
        except RedisError as exc:
            raise Unavailable(_NO_REDIS, tried="release the hold in Redis") from exc

    # --- finding one ----------------------------------------------------------------------

    def _relaxed(self, hot: Access, now: datetime) -> bool:
        return now < self._relaxed_until and hot.usable(now)

    def _renewed(self) -> Access:
        hot, now = self._hot, self._now()
        if hot is not None and hot.fresh(now):
            return hot
        try:
            self._hot = self._found(hot)
        except CloudProblem as problem:
            if hot is None or not hot.usable(now):
                raise
            logger.warning("token not refreshed, the old one still works: %s", problem)
            self._relaxed_until = now + RELAX
            self._hot = hot
        return self._hot

    def _found(self, hot: Access | None) -> Access:
        if self._vault is None:
            return self._alone()
        try:
            return self._shared(self._vault, hot)
        except RedisError as exc:
            self._warn(exc)
            return self._alone()

    def _alone(self) -> Access:
        """Log in for this process only."""
        now = self._now()
        closed = self._own_hold(now) or (self._own.pause if now < self._own_pause_until else None)
        if closed:
            raise closed
        try:
            token = read_login(self._login, now)
        except LoginRefused as problem:
            hold = LoginBackoff.after(problem, self._own.hold, now=now)
            self._own = TokenState(hold=hold)
            raise hold.told(problem, now) from problem
        except Unavailable as problem:
            self._own = TokenState(hold=self._own.hold, pause=problem)
            self._own_pause_until = now + (problem.retry_after or PAUSE)
            raise
        self._own = TokenState()
        return token

    def _shared(self, vault: TokenStore, hot: Access | None) -> Access:
        """The fleet's token; if there is none, one process logs in and the others wait for it."""
        owner = uuid.uuid4().hex
        for _ in range(LOOKS):
            now = self._now()
            seen = vault.look(now)
            if seen.token is not None and seen.token.fresh(now):
                return seen.token
            usable = next((each for each in (seen.token, hot) if each and each.usable(now)), None)
            if closed := seen.closed(now) or self._own_hold(now):
                return self._relax(usable, closed, now)
            fence = vault.lock(owner)
            if fence is not None:
                return self._win(vault, owner, fence)
            if usable is not None:
                return self._relax(usable, None, now)
            self._sleep(random.uniform(*LOOK_EVERY_S))  # noqa: S311  # jitter, no secret
        raise Unavailable(_SLOW_LOGIN, tried="wait for another worker's login", retry_after=PAUSE)

    def _relax(self, usable: Access | None, closed: CloudProblem | None, now: datetime) -> Access:
        """Go on with what still works, and leave the refresh to others for a moment."""
        if usable is None:
            assert closed is not None  # noqa: S101  # only a closed IAM leaves us without one
            raise closed
        self._relaxed_until = now + RELAX
        return usable

    def _own_hold(self, now: datetime) -> CloudProblem | None:
        """A refusal that Redis could not be told of still counts here."""
        hold = self._own.hold
        return hold.problem(now) if hold is not None and now < hold.next_at else None

    def _win(self, vault: TokenStore, owner: str, fence: int) -> Access:
        try:
            now = self._now()
            seen = vault.look(now)
            # The former holder may have finished between our look and our lock.
            if seen.token is not None and seen.token.fresh(now):
                return seen.token
            if closed := seen.closed(now):
                raise closed
            return self._log_in(vault, fence, seen.hold)
        finally:
            with suppress(RedisError):
                vault.unlock(owner)

    def _log_in(self, vault: TokenStore, fence: int, before: LoginBackoff | None) -> Access:
        now = self._now()
        try:
            token = read_login(self._login, now)
        except LoginRefused as problem:
            hold = LoginBackoff.after(problem, before, now=now)
            self._told(lambda: vault.hold(hold, now=now), otherwise=TokenState(hold=hold))
            raise hold.told(problem, now) from problem
        except Unavailable as problem:
            paused = problem
            self._told(lambda: vault.pause(paused), otherwise=self._own)
            raise
        self._own = TokenState()
        # A login that succeeded is used whether Redis takes it or not.
        self._told(lambda: vault.save(token, fence=fence, now=now), otherwise=self._own)
        return token

    def _told(self, tell: Callable[[], None], *, otherwise: TokenState) -> None:
        try:
            tell()
        except RedisError as exc:
            self._own = otherwise
            self._warn(exc)

    def _warn(self, exc: Exception) -> None:
        if not self._warned:
            self._warned = True
            logger.warning(
                "Redis is not reachable (%s): this process uses a token of its own",
                type(exc).__name__,
            )


_NO_REDIS: Final = Failure(
    code="REDIS.unreachable",
    message="Redis is not reachable, so the fleet could not be told",
    error_class=ErrorClass.RETRY,
    hint="Check IMS_IMPORT_REDIS_URL and try again.",
)
_SLOW_LOGIN: Final = Failure(
    code="IAM.slow",
    message="another worker's login takes too long",
    error_class=ErrorClass.RETRY,
    hint="IAM is slow or not reachable; it is tried again.",
)


def read_login(login: Callable[[], str], now: datetime) -> Access:
    """Log in, once; an answer that is no token is IAM's trouble, not the credentials'."""
    state = login()
    try:
        return read_state(state, now=now)
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        failure = Failure(
            code="IAM.unreadable",
            message="IAM's answer to the login is not readable",
            error_class=ErrorClass.RETRY,
            hint="Check auth_url; it is tried again.",
        )
        raise Unavailable(failure, tried="log in at IAM") from exc


# --- in Redis -------------------------------------------------------------------------------

_LOCK_LUA: Final = """
if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then
  return redis.call('INCR', KEYS[2])
end
return 0
"""
_UNLOCK_LUA: Final = """
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
"""
# A slow winner whose lock ran out must not overwrite what a later one stored.
_SAVE_LUA: Final = """
if tonumber(redis.call('HGET', KEYS[1], 'gen') or '0') > tonumber(ARGV[1]) then return 0 end
redis.call('HSET', KEYS[1], 'gen', ARGV[1], 'sha', ARGV[2], 'state', ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
redis.call('DEL', KEYS[2], KEYS[3])
return 1
"""
# 1: there may be a better token now; 0: the refused one is kept, for new ones are refused too.
_DROP_LUA: Final = """
if redis.call('HGET', KEYS[1], 'sha') ~= ARGV[1] then return 1 end
if redis.call('EXISTS', KEYS[2]) == 1 then return 0 end
redis.call('DEL', KEYS[1])
return 1
"""


def identity_name(secret: str, identity: Mapping[str, Any]) -> str:
    """A name for credentials that tells nothing about them without the secret key."""
    text = json.dumps({key: str(value) for key, value in identity.items()}, sort_keys=True)
    return hmac.new(secret.encode(), text.encode(), hashlib.sha256).hexdigest()


class RedisTokenStore:
    """The fleet's token in Redis, encrypted; nobody reads it without the secret key."""

    def __init__(self, redis: "Redis", fernet: MultiFernet, name: str) -> None:
        self._redis = redis
        self._fernet = fernet
        self._token_key = f"ims-import:token:{name}"
        self._hold_key = f"ims-import:hold:{name}"
        self._pause_key = f"ims-import:token-pause:{name}"
        self._lock_key = f"ims-import:token-lock:{name}"
        self._fence_key = f"ims-import:token-fence:{name}"
        self._distrust_key = f"ims-import:token-distrust:{name}"
        self._take, self._give, self._store, self._forget = (
            redis.register_script(lua) for lua in (_LOCK_LUA, _UNLOCK_LUA, _SAVE_LUA, _DROP_LUA)
        )

    def look(self, now: datetime) -> TokenState:
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.hget(self._token_key, "state")
            pipe.get(self._hold_key)
            pipe.get(self._pause_key)
            state, hold, pause = pipe.execute()
        return TokenState(token=self._opened(state, now), hold=_hold(hold), pause=_pause(pause))

    def lock(self, owner: str) -> int | None:
        """The fencing number, or None when another process is at it."""
        keys = [self._lock_key, self._fence_key]
        fence = int(self._take(keys=keys, args=[owner, _ms(LOCK)]))
        return fence or None

    def unlock(self, owner: str) -> None:
        self._give(keys=[self._lock_key], args=[owner])

    def save(self, token: Access, *, fence: int, now: datetime) -> None:
        sealed = self._fernet.encrypt(token.state.encode()).decode()
        life = max(token.expires_at - now, timedelta(seconds=1))
        keys = [self._token_key, self._hold_key, self._pause_key]
        self._store(keys=keys, args=[fence, token.digest, sealed, _ms(life)])

    def drop(self, digest: str) -> bool:
        """Drop the token if it is still the refused one; False when it is kept all the same."""
        return bool(self._forget(keys=[self._token_key, self._distrust_key], args=[digest]))

    def distrust(self) -> None:
        self._redis.set(self._distrust_key, 1, px=_ms(DISTRUST))

    def hold(self, hold: LoginBackoff, *, now: datetime) -> None:
        life = hold.next_at - now + BACKOFF_MEMORY
        self._redis.set(self._hold_key, hold.as_json(), px=_ms(life))

    def pause(self, problem: Unavailable) -> None:
        pause = max(problem.retry_after or PAUSE, timedelta(seconds=1))
        text = json.dumps(
            {
                "failure": problem.failure.model_dump(mode="json", by_alias=True),
                "tried": problem.tried,
                "pause_s": pause.total_seconds(),
            }
        )
        self._redis.set(self._pause_key, text, px=_ms(pause))

    def release(self) -> None:
        self._redis.delete(self._hold_key, self._pause_key)

    def _opened(self, sealed: bytes | str | None, now: datetime) -> Access | None:
        """A token sealed with a key we do not have is as good as none."""
        if not sealed:
            return None
        try:
            return read_state(self._fernet.decrypt(sealed).decode(), now=now)
        except (InvalidToken, ValueError, KeyError, TypeError, AttributeError):
            return None


def _hold(text: bytes | str | None) -> LoginBackoff | None:
    if not text:
        return None
    try:
        content = json.loads(text)
        return LoginBackoff(
            failure=Failure.model_validate(content["failure"]),
            tries=int(content["tries"]),
            next_at=datetime.fromisoformat(content["next_at"]),
        )
    except (ValueError, KeyError, TypeError):
        return None


def _pause(text: bytes | str | None) -> Unavailable | None:
    if not text:
        return None
    try:
        content = json.loads(text)
        return Unavailable(
            Failure.model_validate(content["failure"]),
            tried=str(content["tried"]),
            retry_after=timedelta(seconds=float(content["pause_s"])),
        )
    except (ValueError, KeyError, TypeError):
        return None


def _ms(span: timedelta) -> int:
    return max(int(span.total_seconds() * 1000), 1)
