"""Who may: API keys with scopes and clouds, and how often."""

import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Any, Final

from fastapi import Depends, FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.security import HTTPBearer
from limits import RateLimitItemPerMinute
from limits.storage import storage_from_string
from limits.strategies import SlidingWindowCounterRateLimiter
from redis import RedisError

from ims_config.records import ImportRecord, Scope
from ims_config.settings import ApiSettings
from ims_ledger.api_keys import ApiKey
from ims_ledger.errors import NotFound, Unavailable
from ims_producer.api.problems import FieldError, Refusal, answer, no_ledger
from ims_producer.client import Client

logger = logging.getLogger(__name__)

# All else is open: health, the documents, and the news that there is nothing.
_GUARDED: Final = ("/v1", "/metrics")
# Who brings no key here brings a signature; the operation itself looks at that.
_SIGNED: Final = "/v1/events/obs"
REALM: Final = 'Bearer realm="ims-import"'
# What the document says of keys; they are looked at before, see ask_for_keys.
key_documented = HTTPBearer(
    auto_error=False,
    scheme_name="ApiKey",
    description="A key of `ims-import keys create`, as `Authorization: Bearer ims_…`.",
)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks; without a key (`--no-auth`) everything is open."""

    key: ApiKey | None

    @property
    def name(self) -> str:
        return f"api:{self.key.name}" if self.key else "api"

    @property
    def clouds(self) -> tuple[str, ...] | None:
        return self.key.clouds if self.key else None

    def may_ask_for(self, cloud: str | None) -> bool:
        return self.key is None or self.key.knows(cloud)

    def ensure_visible(self, record: ImportRecord) -> None:
        """Raises NotFound for what another key's clouds have: its existence is no news."""
        if not self.may_ask_for(record.cloud):
            raise NotFound("import", record.id)


class Rate:
    """How often each key may ask, counted in Redis for all API processes together."""

    def __init__(self, settings: ApiSettings) -> None:
        options = {"socket_timeout": 1, "socket_connect_timeout": 1}
        storage = storage_from_string(settings.redis, **options)
        self._limiter = SlidingWindowCounterRateLimiter(storage)
        self._limit = RateLimitItemPerMinute(settings.api_rate_per_minute, namespace="ims-api")

    def count(self, key: ApiKey) -> float | None:
        """Count a request; returns how many seconds to wait if it is one too many."""
        try:
            if self._limiter.hit(self._limit, key.id):
                return None
            reset, _ = self._limiter.get_window_stats(self._limit, key.id)
        except (RedisError, OSError) as exc:
            # A door that is shut because its counter is gone would lose requests.
            logger.warning("requests are not counted, redis is gone", extra={"why": str(exc)})
            return None
        return max(reset - time.time(), 1)


def client_of(request: Request) -> Client:
    """The ledger and the broker of the app that was asked."""
    client: Client = request.app.state.client
    return client


def ask_for_keys(app: FastAPI) -> None:
    """Know who asks before anything is read of what they send."""

    @app.middleware("http")
    async def known(
        request: Request, call_next: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        if request.url.path.startswith(_GUARDED):
            try:
                request.state.caller = await run_in_threadpool(_caller, request)
            except Refusal as refusal:
                return answer(refusal)
            except Unavailable as exc:
                return answer(no_ledger(exc))
        return await call_next(request)


def _caller(request: Request) -> Caller | None:
    if not request.app.state.auth:
        return Caller(None)
    if request.url.path == _SIGNED and "Authorization" not in request.headers:
        return None
    client = client_of(request)
    scheme, _, text = request.headers.get("Authorization", "").partition(" ")
    key = client.ledger.api_keys.check(text.strip()) if scheme.lower() == "bearer" else None
    if key is None:
        raise _no_key()
    rate: Rate = request.app.state.rate
    pause = rate.count(key)
    if pause is not None:
        raise Refusal(
            HTTPStatus.TOO_MANY_REQUESTS,
            f"key {key.name} asks too often",
            headers={"Retry-After": f"{pause:.0f}"},
        )
    return Caller(key)


def _no_key() -> Refusal:
    return not_known(
        "an API key is needed, as `Authorization: Bearer ims_…`; it is missing, wrong, "
        "expired or revoked"
    )


def not_known(why: str) -> Refusal:
    """Who asks has not shown who that is."""
    return Refusal(HTTPStatus.UNAUTHORIZED, why, headers={"WWW-Authenticate": REALM})


def needs(scope: Scope) -> Any:
    """The caller of an operation that needs this scope, as a parameter's type."""

    async def caller(
        request: Request, _documented: Annotated[object, Depends(key_documented)]
    ) -> Caller:
        return who_may(request, scope)

    return Depends(caller)


def who_may(request: Request, scope: Scope) -> Caller:
    """The caller, who has this scope. Raises Refusal."""
    known: Caller | None = request.state.caller
    if known is None:
        raise _no_key()
    if known.key is not None and not known.key.may(scope):
        raise Refusal(
            HTTPStatus.FORBIDDEN,
            f"key {known.key.name} has not the scope {scope}, which this needs",
        )
    return known


def of_all_clouds(caller: Annotated[Caller, needs(Scope.ADMIN)]) -> Caller:
    """Who may do what concerns every cloud: a key limited to some could free itself otherwise."""
    if caller.clouds is not None:
        raise Refusal(
            HTTPStatus.FORBIDDEN, "this needs a key that is not limited to certain clouds"
        )
    return caller


def refuse_cloud(caller: Caller, cloud: str | None) -> None:
    """Raises unless the caller may ask for imports to this cloud."""
    if caller.may_ask_for(cloud):
        return
    known = ", ".join(caller.clouds or ())
    raise Refusal(
        HTTPStatus.FORBIDDEN,
        f"key {caller.key.name if caller.key else ''} is limited to certain clouds",
        errors=[FieldError(field="cloud", detail=f"must be one of: {known}; given: {cloud!r}")],
    )
