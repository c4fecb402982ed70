"""Authentication of IMS calls with one token that all workers share.

Threads share the token through a lock, processes and machines through Redis: one worker logs in,
before the token expires. Without Redis or without a secret key, each process uses its own token.
"""

import logging
import random
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Final

from keystoneauth1.plugin import BaseAuthPlugin
from keystoneauth1.session import Session
from redis.exceptions import RedisError

from ims_config.records import ErrorClass, Failure
from ims_worker.adapters.otc.tokens import (
    LOGIN_PAUSE,
    REFRESH_PAUSE,
    Access,
    LoginBackoff,
    Now,
    TokenState,
    TokenStore,
    read_state,
)
from ims_worker.errors import CloudProblem, LoginRefused, Unavailable

logger = logging.getLogger(__name__)

# A process that failed to refresh a token that still works does not retry at once.
REFRESH_DEFERRAL: Final = timedelta(seconds=15)
LOGIN_READ_S: Final = 8.0
POLL_STORE_S: Final = (0.05, 0.2)
MAX_STORE_POLLS: Final = 320


class SharedToken:
    """The token of one cloud, for the threads of this process and through the store for all."""

    def __init__(
        self,
        login: Callable[[], str],
        store: TokenStore | None,
        *,
        now: Now = lambda: datetime.now(UTC),
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._login = login
        self._store = store
        self._now = now
        self._sleep = sleep
        self._lock = threading.Lock()
        self._cached: Access | None = None
        self._deferred_until = datetime.min.replace(tzinfo=UTC)
        self._refresh_paused_until = self._deferred_until
        self._local = TokenState()
        self._local_pause_until = self._deferred_until
        self._warned = False

    @property
    def is_shared(self) -> bool:
        """Whether all workers share one login."""
        return self._store is not None

    def current(self) -> Access:
        """A token that is valid for one more call. Raises LoginRefused or Unavailable."""
        cached, now = self._cached, self._now()
        if cached is not None and (cached.fresh(now) or self._deferred(cached, now)):
            return cached
        # While one thread refreshes, the others continue with a token that still works.
        wait = cached is None or not cached.usable(now)
        if not self._lock.acquire(blocking=wait):
            assert cached is not None  # noqa: S101  # without a token the thread waits
            return cached
        try:
            return self._refreshed()
        finally:
            self._lock.release()

    def replace(self, refused: Access) -> Access | None:
        """Another token for one that IMS refused; None when there is no better one.

        Drops only this token: a late refusal of an old token leads to the newer one.
        """
        if self._cached is not None and self._cached.token == refused.token:
            if self._now() < self._refresh_paused_until:
                return None
            self._cached = None
        try:
            if self._store is not None and not self._store.drop(refused.digest):
                return None
        except RedisError as exc:
            self._warn(exc)
        token = self.current()
        return None if token.token == refused.token else token

    def pause_refresh(self) -> None:
        """A new token was refused as well: refusals fetch no further ones for a while."""
        self._refresh_paused_until = self._now() + REFRESH_PAUSE
        if self._store is not None:
            with suppress(RedisError):
                self._store.pause_refresh()

    def allow_login(self) -> None:
        """End a backoff, after a person corrected the credentials."""
        self._local = TokenState()
        self._local_pause_until = self._now()
        if self._store is None:
            return
        try:
            self._store.allow_login()
        except RedisError as exc:
            raise Unavailable(_NO_REDIS, tried="end the login backoff in Redis") from exc

    # --- refreshing -----------------------------------------------------------------------

    def _deferred(self, cached: Access, now: datetime) -> bool:
        return now < self._deferred_until and cached.usable(now)

    def _refreshed(self) -> Access:
        cached, now = self._cached, self._now()
        if cached is not None and cached.fresh(now):
            return cached
        try:
            self._cached = self._fetched(cached)
        except CloudProblem as problem:
            if cached is None or not cached.usable(now):
                raise
            reason = {"reason": str(problem)}
            logger.warning("token not refreshed; the current one still works", extra=reason)
            self._deferred_until = now + REFRESH_DEFERRAL
            self._cached = cached
        return self._cached

    def _fetched(self, cached: Access | None) -> Access:
        if self._store is None:
            return self._fetch_alone()
        try:
            return self._fetch_shared(self._store, cached)
        except RedisError as exc:
            self._warn(exc)
            return self._fetch_alone()

    def _fetch_alone(self) -> Access:
        """Log in for this process only."""
        now = self._now()
        paused = self._local.pause if now < self._local_pause_until else None
        if blocked := self._local_backoff(now) or paused:
            raise blocked
        try:
            token = _logged_in(self._login, now)
        except LoginRefused as problem:
            backoff = LoginBackoff.after(problem, self._local.backoff, now=now)
            self._local = TokenState(backoff=backoff)
            raise _with_pause(problem, backoff, now) from problem
        except Unavailable as problem:
            self._local = TokenState(backoff=self._local.backoff, pause=problem)
            self._local_pause_until = now + (problem.retry_after or LOGIN_PAUSE)
            raise
        self._local = TokenState()
        return token

    def _fetch_shared(self, store: TokenStore, cached: Access | None) -> Access:
        """The shared token; if there is none, one process logs in and the others wait for it."""
        owner = uuid.uuid4().hex
        for _ in range(MAX_STORE_POLLS):
            now = self._now()
            state = store.read(now)
            if state.token is not None and state.token.fresh(now):
                return state.token
            usable = next(
                (each for each in (state.token, cached) if each and each.usable(now)), None
            )
            if blocked := state.login_blocked(now) or self._local_backoff(now):
                return self._defer_refresh(usable, blocked, now)
            fence = store.lock(owner)
            if fence is not None:
                return self._log_in_locked(store, owner, fence)
            if usable is not None:
                return self._defer_refresh(usable, None, now)
            self._sleep(random.uniform(*POLL_STORE_S))  # noqa: S311  # jitter, no secret
        raise Unavailable(
            _SLOW_LOGIN, tried="wait for another worker's login", retry_after=LOGIN_PAUSE
        )

    def _defer_refresh(
        self, usable: Access | None, blocked: CloudProblem | None, now: datetime
    ) -> Access:
        """Continue with a token that still works, and leave the refresh to others for a moment."""
        if usable is None:
            assert blocked is not None  # noqa: S101  # callers have one of the two
            raise blocked
        self._deferred_until = now + REFRESH_DEFERRAL
        return usable

    def _local_backoff(self, now: datetime) -> CloudProblem | None:
        """A refusal that Redis could not store still counts in this process."""
        return TokenState(backoff=self._local.backoff).login_blocked(now)

    def _log_in_locked(self, store: TokenStore, owner: str, fence: int) -> Access:
        try:
            now = self._now()
            state = store.read(now)
            # The previous owner may have finished between our read and our lock.
            if state.token is not None and state.token.fresh(now):
                return state.token
            if blocked := state.login_blocked(now):
                raise blocked
            return self._log_in(store, fence, state.backoff)
        finally:
            with suppress(RedisError):
                store.unlock(owner)

    def _log_in(self, store: TokenStore, fence: int, previous: LoginBackoff | None) -> Access:
        now = self._now()
        try:
            token = _logged_in(self._login, now)
        except LoginRefused as problem:
            backoff = LoginBackoff.after(problem, previous, now=now)
            fallback = TokenState(backoff=backoff)
            self._publish(lambda: store.back_off(backoff, now=now), fallback=fallback)
            raise _with_pause(problem, backoff, now) from problem
        except Unavailable as problem:
            paused = problem
            self._publish(lambda: store.pause_logins(paused), fallback=self._local)
            raise
        self._local = TokenState()
        # The new token is used even if Redis cannot store it.
        self._publish(lambda: store.save(token, fence=fence, now=now), fallback=self._local)
        return token

    def _publish(self, write: Callable[[], None], *, fallback: TokenState) -> None:
        try:
            write()
        except RedisError as exc:
            self._local = fallback
            self._warn(exc)

    def _warn(self, exc: Exception) -> None:
        if not self._warned:
            self._warned = True
            reason = {"reason": type(exc).__name__}
            logger.warning("Redis is unreachable: this process uses its own token", extra=reason)


class _Call(threading.local):
    """What the plugin did last in this thread."""

    access: Access | None = None
    """The token of the call."""
    is_retry = False
    """Whether it was handed out instead of a refused one."""
    replaced = False
    """Whether the next token is handed out instead of a refused one."""


class SharedTokenAuth(BaseAuthPlugin):
    """keystoneauth's plugin interface to the shared token.

    `invalidate()` has no argument that names the refused token, and other threads may have a newer
    one by then. A call is synchronous, so the plugin remembers for each thread the token it handed
    out last; `invalidate()` drops that one only.
    """

    def __init__(self, tokens: SharedToken) -> None:
        super().__init__()
        self._tokens = tokens
        self._call = _Call()

    def get_token(self, session: Session) -> str:  # noqa: ARG002  # logins have their own session
        """The token for one call; keystoneauth's `get_headers` puts it into X-Auth-Token."""
        call = self._call
        call.is_retry, call.replaced, call.access = call.replaced, False, None
        call.access = self._tokens.current()
        return call.access.token

    def invalidate(self) -> bool:
        """Drop the token that this thread's last call used; whether a retry makes sense."""
        call = self._call
        if call.access is None:
            return False
        if call.is_retry:
            self._tokens.pause_refresh()
            return False
        call.replaced = self._tokens.replace(call.access) is not None
        return call.replaced

    def get_endpoint(
        self,
        session: Session,  # noqa: ARG002  # as above
        *,
        service_type: str | None = None,
        interface: str | list[str] | None = "public",
        region_name: str | None = None,
        **_filters: object,
    ) -> str | None:
        """The URL in the token's catalogue. Raises keystoneauth's CatalogException."""
        catalogue = self._tokens.current().info.service_catalog
        return catalogue.url_for(
            service_type=service_type, interface=interface, region_name=region_name
        )

    def get_project_id(self, session: Session) -> str | None:  # noqa: ARG002  # as above
        return self._tokens.current().info.project_id


_NO_REDIS: Final = Failure(
    code="REDIS.unreachable",
    message="Redis is unreachable, so the other workers do not learn of it",
    error_class=ErrorClass.RETRY,
    hint="Check IMS_IMPORT_REDIS_URL and try again.",
)
_SLOW_LOGIN: Final = Failure(
    code="IAM.slow",
    message="another worker's login takes too long",
    error_class=ErrorClass.RETRY,
    hint="IAM is slow or unreachable; retrying automatically.",
)


def _with_pause(problem: LoginRefused, backoff: LoginBackoff, now: datetime) -> LoginRefused:
    """The refusal, with the pause until the next attempt."""
    pause = backoff.next_at - now
    return LoginRefused(problem.failure, tried=problem.tried, retry_after=pause)


def _logged_in(login: Callable[[], str], now: datetime) -> Access:
    """Log in once; an unreadable response is a failure of IAM, not of the credentials."""
    state = login()
    try:
        return read_state(state, now=now)
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        failure = Failure(
            code="IAM.unreadable",
            message="IAM's response to the login is unreadable",
            error_class=ErrorClass.RETRY,
            hint="Check auth_url; retrying automatically.",
        )
        raise Unavailable(failure, tried="log in at IAM") from exc
