"""The shared token's decisions, with clocks and stores passed in."""

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import pytest
from fakes import a_failure
from keystoneauth1.session import Session
from redis.exceptions import ConnectionError as RedisGone

from ims_config.records import ErrorClass
from ims_worker.adapters.otc.auth import SharedToken, SharedTokenAuth
from ims_worker.adapters.otc.tokens import (
    FIRST_BACKOFF,
    LOCKED_BACKOFF,
    MAX_BACKOFF,
    REFRESH_PAUSE,
    Access,
    LoginBackoff,
    TokenState,
    TokenStore,
    read_state,
)
from ims_worker.adapters.redis.token_store import identity_name
from ims_worker.errors import LoginRefused, Unavailable

T = TypeVar("T")
NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


class Clock:
    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> datetime:
        return self.now

    def pass_(self, **span: float) -> None:
        self.now += timedelta(**span)


def a_state(token: str, issued: datetime, life: timedelta = timedelta(hours=24)) -> str:
    body = {
        "token": {
            "methods": ["password"],
            "issued_at": issued.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "expires_at": (issued + life).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "user": {"id": "u", "name": "n", "domain": {"id": "d", "name": "d"}},
        }
    }
    return json.dumps({"auth_token": token, "body": body})


class Iam:
    """Counts logins and hands out token-1, token-2, …"""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.logins = 0
        self.problem: Exception | None = None

    def __call__(self) -> str:
        self.logins += 1
        if self.problem is not None:
            raise self.problem
        return a_state(f"token-{self.logins}", self.clock.now)


def wrong(code: str = "IAM.0062") -> LoginRefused:
    return LoginRefused(a_failure(code, "no", ErrorClass.AUTH), tried="POST /auth/tokens")


def unavailable() -> Unavailable:
    return Unavailable(a_failure("HTTP.503", "no", ErrorClass.RETRY), tried="POST /auth/tokens")


def alone() -> tuple[SharedToken, Iam, Clock]:
    clock = Clock()
    iam = Iam(clock)
    return SharedToken(iam, None, now=clock), iam, clock


class Unreachable:
    """A store whose Redis is unreachable."""

    def __getattr__(self, _name: str) -> Any:
        def fails(*_args: object, **_kwargs: object) -> Any:
            raise RedisGone("refused")

        return fails


@pytest.mark.parametrize(
    ("life", "early"),
    [
        (timedelta(hours=24), timedelta(hours=2.4)),
        (timedelta(hours=1), timedelta(minutes=6)),
        (timedelta(minutes=20), timedelta(minutes=5)),
    ],
)
def test_a_token_is_refreshed_before_it_expires(life: timedelta, early: timedelta) -> None:
    token = read_state(a_state("t", NOON, life), now=NOON)

    assert token.refresh_at == token.expires_at - early
    assert token.fresh(token.refresh_at - timedelta(seconds=1))
    assert not token.fresh(token.refresh_at)
    assert token.usable(token.refresh_at)


def test_neither_token_nor_state_is_printed() -> None:
    token = read_state(a_state("very-secret", NOON), now=NOON)

    assert "very-secret" not in repr(token)
    assert "very-secret" not in str(token)


def test_one_login_serves_until_the_token_is_due_for_refresh() -> None:
    tokens, iam, clock = alone()

    first = tokens.current()
    clock.pass_(hours=21)
    assert tokens.current() == first
    clock.pass_(hours=1)

    assert tokens.current().token == "token-2"
    assert iam.logins == 2


def test_a_late_refusal_of_an_old_token_does_not_drop_the_new_one() -> None:
    tokens, iam, _ = alone()
    old = tokens.current()
    new = tokens.replace(old)

    again = tokens.replace(old)

    assert new is not None
    assert again is not None
    assert (new.token, again.token, iam.logins) == ("token-2", "token-2", 2)


def test_refused_new_tokens_pause_refreshing() -> None:
    tokens, iam, clock = alone()
    new = tokens.replace(tokens.current())
    assert new is not None
    tokens.pause_refresh()

    assert tokens.replace(new) is None
    assert iam.logins == 2

    clock.now += REFRESH_PAUSE
    assert tokens.replace(new) is not None


def test_wrong_credentials_are_tried_once_and_then_blocked() -> None:
    tokens, iam, clock = alone()
    iam.problem = wrong()

    for _ in range(5):
        with pytest.raises(LoginRefused) as caught:
            tokens.current()
        clock.pass_(seconds=1)

    assert iam.logins == 1
    assert caught.value.retry_after is not None
    assert caught.value.retry_after <= FIRST_BACKOFF


def test_after_an_ended_backoff_the_next_call_logs_in() -> None:
    tokens, iam, _ = alone()
    iam.problem = wrong()
    with pytest.raises(LoginRefused):
        tokens.current()
    iam.problem = None

    tokens.allow_login()

    assert tokens.current().token == "token-2"


@pytest.mark.parametrize(
    ("code", "tries", "pause"),
    [
        ("IAM.0062", 0, FIRST_BACKOFF),
        ("IAM.0062", 1, FIRST_BACKOFF * 2),
        ("IAM.0062", 3, FIRST_BACKOFF * 8),
        ("IAM.0062", 4, MAX_BACKOFF),
        ("IAM.0062", 90, MAX_BACKOFF),
        ("IAM.0061", 0, LOCKED_BACKOFF),
    ],
)
def test_each_refusal_in_a_row_doubles_the_pause(code: str, tries: int, pause: timedelta) -> None:
    previous = LoginBackoff(failure=a_failure(), tries=tries, next_at=NOON) if tries else None

    backoff = LoginBackoff.after(wrong(code), previous, now=NOON)

    assert backoff.next_at - NOON == pause
    assert backoff.tries == tries + 1


def test_an_unavailable_iam_does_not_count_as_wrong_credentials() -> None:
    tokens, iam, clock = alone()
    iam.problem = unavailable()
    for _ in range(3):
        with pytest.raises(Unavailable):
            tokens.current()
    assert iam.logins == 1
    iam.problem = None

    clock.pass_(seconds=6)

    assert tokens.current().token == "token-2"


def test_a_usable_token_outlives_an_unavailable_iam() -> None:
    tokens, iam, clock = alone()
    tokens.current()
    iam.problem = unavailable()
    clock.pass_(hours=22)

    assert tokens.current().token == "token-1"
    assert tokens.current().token == "token-1"
    assert iam.logins == 2

    clock.pass_(hours=3)
    with pytest.raises(Unavailable):
        tokens.current()


def test_an_unreadable_login_is_not_about_the_credentials() -> None:
    clock = Clock()
    for state in ("", "{}", '{"auth_token": "t", "body": {}}', '{"auth_token": "t", "body": 1}'):
        with pytest.raises(Unavailable):
            SharedToken(lambda answer=state: answer, None, now=clock).current()  # type: ignore[misc]  # the default binds


def test_without_redis_a_process_uses_its_own_token(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    iam = Iam(clock)
    store: Any = Unreachable()
    tokens = SharedToken(iam, store, now=clock)

    first = tokens.current()
    second = tokens.replace(first)

    assert second is not None
    assert (first.token, second.token) == ("token-1", "token-2")
    assert len([record for record in caplog.records if "Redis" in record.message]) == 1


def test_without_redis_wrong_credentials_are_blocked_in_the_process() -> None:
    clock = Clock()
    iam = Iam(clock)
    iam.problem = wrong()
    store: Any = Unreachable()
    tokens = SharedToken(iam, store, now=clock)

    for _ in range(4):
        with pytest.raises(LoginRefused):
            tokens.current()

    assert iam.logins == 1


def test_threads_of_a_process_log_in_once() -> None:
    tokens, iam, _ = alone()
    threads = [threading.Thread(target=tokens.current) for _ in range(20)]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert iam.logins == 1


class LockedElsewhere:
    """A store in which another process holds the lock and has a token or will soon."""

    def __init__(self, *states: TokenState) -> None:
        self.states = list(states)
        self.reads = 0

    def read(self, _now: datetime) -> TokenState:
        self.reads += 1
        return self.states.pop(0) if len(self.states) > 1 else self.states[0]

    def lock(self, _owner: str) -> int | None:
        return None


def beside(*states: TokenState) -> tuple[SharedToken, Iam, Clock]:
    clock = Clock()
    iam = Iam(clock)
    store: Any = LockedElsewhere(*states)
    shared: TokenStore = store
    return SharedToken(iam, shared, now=clock, sleep=lambda _s: None), iam, clock


def a_token(name: str, *, age: timedelta = timedelta(0)) -> Access:
    return read_state(a_state(name, NOON - age), now=NOON)


def test_a_process_without_the_lock_waits_for_the_token() -> None:
    tokens, iam, _ = beside(TokenState(), TokenState(), TokenState(token=a_token("theirs")))

    assert tokens.current().token == "theirs"
    assert iam.logins == 0


def test_others_use_the_usable_token_while_one_refreshes() -> None:
    tokens, iam, _ = beside(TokenState(token=a_token("old", age=timedelta(hours=22))))

    assert tokens.current().token == "old"
    assert iam.logins == 0


def test_a_shared_backoff_prevents_logins() -> None:
    backoff = LoginBackoff(
        failure=a_failure("IAM.0062"), tries=1, next_at=NOON + timedelta(seconds=100)
    )
    tokens, iam, _ = beside(TokenState(backoff=backoff))

    with pytest.raises(LoginRefused, match=r"IAM\.0062.*on hold") as caught:
        tokens.current()

    assert caught.value.retry_after == timedelta(seconds=100)
    assert iam.logins == 0


def test_waiting_for_another_login_has_an_end() -> None:
    tokens, _, _ = beside(TokenState())

    with pytest.raises(Unavailable):
        tokens.current()


def test_the_name_in_redis_depends_on_user_and_key() -> None:
    names = {
        identity_name(secret, {"auth_url": "u", "username": user})
        for secret in ("k1", "k2")
        for user in ("a", "b")
    }

    assert len(names) == 4
    assert identity_name("k", {"a": "1", "b": "2"}) == identity_name("k", {"b": "2", "a": "1"})


# --- the plugin -----------------------------------------------------------------------------

SESSION = Session()


def a_plugin() -> tuple[SharedTokenAuth, Iam, Clock]:
    tokens, iam, clock = alone()
    return SharedTokenAuth(tokens), iam, clock


def sent_token(auth: SharedTokenAuth) -> str:
    """The token that one call sends."""
    headers = auth.get_headers(SESSION)
    assert headers is not None
    return headers["X-Auth-Token"]


def in_another_thread(action: Callable[[], T]) -> T:
    with ThreadPoolExecutor(1) as threads:
        return threads.submit(action).result()


def test_a_refused_token_is_replaced() -> None:
    auth, iam, _ = a_plugin()

    assert sent_token(auth) == "token-1"
    assert auth.invalidate()
    assert sent_token(auth) == "token-2"
    assert iam.logins == 2


def test_a_late_refusal_in_another_thread_keeps_the_newer_token() -> None:
    auth, iam, _ = a_plugin()
    sent_token(auth)

    def replaces_it() -> str:
        sent_token(auth)
        auth.invalidate()
        return sent_token(auth)

    assert in_another_thread(replaces_it) == "token-2"
    assert auth.invalidate()
    assert sent_token(auth) == "token-2"
    assert iam.logins == 2


def test_a_thread_that_sent_nothing_has_nothing_to_invalidate() -> None:
    auth, iam, _ = a_plugin()
    sent_token(auth)

    assert in_another_thread(auth.invalidate) is False
    assert sent_token(auth) == "token-1"
    assert iam.logins == 1


def test_a_refused_retry_pauses_refreshing() -> None:
    auth, iam, clock = a_plugin()
    sent_token(auth)
    auth.invalidate()
    sent_token(auth)

    assert auth.invalidate() is False
    sent_token(auth)
    assert auth.invalidate() is False
    assert iam.logins == 2

    clock.now += REFRESH_PAUSE
    assert auth.invalidate()
    assert sent_token(auth) == "token-3"


def test_a_refusal_in_a_later_call_is_no_refused_retry() -> None:
    auth, iam, _ = a_plugin()
    sent_token(auth)
    auth.invalidate()
    sent_token(auth)

    sent_token(auth)

    assert auth.invalidate()
    assert sent_token(auth) == "token-3"
    assert iam.logins == 3


def test_a_stored_backoff_of_an_older_version_is_read() -> None:
    stored = (
        '{"failure": {"code": "IAM.0062", "message": "m", "class": "auth", "hint": "h", '
        '"http_status": 401, "request_id": null}, "tries": 2, '
        '"next_at": "2026-03-01T12:05:00+00:00"}'
    )

    backoff = LoginBackoff.model_validate_json(stored)

    assert (backoff.tries, backoff.next_at - NOON) == (2, timedelta(minutes=5))
    assert '"class":"auth"' in backoff.model_dump_json(by_alias=True)
