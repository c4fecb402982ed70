"""IAM tokens as values, what all workers know about them, and where they keep that."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol

from keystoneauth1 import access
from pydantic import AwareDatetime

from ims_config.records import Failure, Frozen
from ims_worker.adapters.otc.error_catalog import Meaning, meaning_of
from ims_worker.errors import CloudProblem, LoginRefused, Unavailable

# A token is refreshed this early, or after 90 % of its life.
EARLIEST_REFRESH: Final = timedelta(seconds=300)
REFRESH_SHARE: Final = 0.1
# A token this close to its end may expire on its way to IMS.
EXPIRY_MARGIN: Final = timedelta(seconds=30)
# Five wrong passwords within 15 minutes lock an account of OTC.
FIRST_BACKOFF: Final = timedelta(seconds=300)
MAX_BACKOFF: Final = timedelta(seconds=3600)
LOCKED_BACKOFF: Final = timedelta(seconds=900)
# After IAM was unavailable; shared, so that all workers together try once.
LOGIN_PAUSE: Final = timedelta(seconds=5)
# If a new token is refused as well, fetching further ones does not help.
REFRESH_PAUSE: Final = timedelta(seconds=60)

Now = Callable[[], datetime]


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """A token with its catalogue and project."""

    state: str = field(repr=False)
    """keystoneauth's auth state. It contains the token: never logged, never stored unencrypted."""
    info: access.AccessInfo = field(repr=False, compare=False)
    refresh_at: datetime
    expires_at: datetime

    @property
    def token(self) -> str:
        return str(self.info.auth_token)

    @property
    def digest(self) -> str:
        """Identifies the token without revealing it."""
        return hashlib.sha256(self.token.encode()).hexdigest()

    def fresh(self, now: datetime) -> bool:
        return now < self.refresh_at

    def usable(self, now: datetime) -> bool:
        return now < self.expires_at - EXPIRY_MARGIN


def read_state(state: str, *, now: datetime) -> Access:
    """Parse an auth state of keystoneauth; raises ValueError, KeyError, TypeError or
    AttributeError."""
    content = json.loads(state)
    info = access.create(body=content["body"], auth_token=content["auth_token"])
    if info.expires is None:
        raise ValueError("a token without an end")
    expires, issued = _utc(info.expires), _utc(info.issued or now)
    early = max(EARLIEST_REFRESH, (expires - issued) * REFRESH_SHARE)
    return Access(state=state, info=info, refresh_at=expires - early, expires_at=expires)


def _utc(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


class LoginBackoff(Frozen):
    """IAM refused the credentials: no worker logs in before `next_at`."""

    failure: Failure
    tries: int
    next_at: AwareDatetime

    def refusal(self, now: datetime) -> LoginRefused:
        """The error for a login that is not attempted."""
        return LoginRefused(
            self.failure,
            tried=f"log in at IAM (on hold until {self.next_at:%Y-%m-%dT%H:%M:%SZ})",
            retry_after=max(self.next_at - now, timedelta(seconds=1)),
        )

    @classmethod
    def after(
        cls, problem: LoginRefused, previous: "LoginBackoff | None", *, now: datetime
    ) -> "LoginBackoff":
        """The pause doubles with each refusal in a row."""
        tries = (previous.tries if previous else 0) + 1
        pause = min(FIRST_BACKOFF * 2 ** min(tries - 1, 8), MAX_BACKOFF)
        if meaning_of(problem.failure.code) is Meaning.ACCOUNT_LOCKED:
            pause = max(pause, LOCKED_BACKOFF)
        return cls(failure=problem.failure, tries=tries, next_at=now + pause)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenState:
    """What all workers know at this moment."""

    token: Access | None = None
    backoff: LoginBackoff | None = None
    pause: Unavailable | None = None

    def login_blocked(self, now: datetime) -> CloudProblem | None:
        """Why no worker may log in now."""
        if self.backoff is not None and now < self.backoff.next_at:
            return self.backoff.refusal(now)
        return self.pause


class TokenStore(Protocol):
    """Where all workers keep their token. Every call may raise redis.RedisError."""

    def read(self, now: datetime) -> TokenState: ...

    def lock(self, owner: str) -> int | None:
        """The fencing number, or None while another worker logs in."""
        ...

    def unlock(self, owner: str) -> None: ...

    def save(self, token: Access, *, fence: int, now: datetime) -> None: ...

    def drop(self, digest: str) -> bool:
        """Drop this token unless it was replaced; False when refreshing is paused."""
        ...

    def pause_refresh(self) -> None:
        """Keep even refused tokens for a while, because new ones are refused as well."""
        ...

    def back_off(self, backoff: LoginBackoff, *, now: datetime) -> None: ...

    def pause_logins(self, problem: Unavailable) -> None: ...

    def allow_login(self) -> None:
        """End a backoff and a pause."""
        ...
