"""API-key authentication, authorization and rate limits."""

import logging
import time
from dataclasses import dataclass
from typing import Annotated, Final

from fastapi import Depends, FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.security import HTTPBearer
from fastapi.security.utils import get_authorization_scheme_param
from limits import RateLimitItemPerMinute
from limits.storage import storage_from_string
from limits.strategies import SlidingWindowCounterRateLimiter
from redis import RedisError
from starlette.middleware.base import RequestResponseEndpoint

from ims_config.records import ImportRecord, Scope
from ims_config.settings import ApiSettings
from ims_ledger import NotFound, Unavailable
from ims_ledger.api_keys import ApiKey
from ims_producer.api.problems import ProblemError, problem_response
from ims_producer.backends.direct import DirectBackend
from ims_producer.http_contract import FieldError, ProblemCode

logger = logging.getLogger(__name__)

# Other paths are public: health, the documentation, and the problem of an unknown path.
_PROTECTED: Final = ("/v1", "/metrics")
# A request without a key may carry a signature; the operation itself verifies it.
_SIGNED: Final = "/v1/events/obs"
# Documents the scheme; the middleware below does the check before the body is read.
api_key_scheme = HTTPBearer(
    auto_error=False,
    scheme_name="ApiKey",
    description="A key of `ims-import keys create`, as `Authorization: Bearer ims_…`.",
)


@dataclass(frozen=True, slots=True)
class Caller:
    """The holder of an API key. Without a key (`--no-auth`) everything is allowed."""

    key: ApiKey | None

    @property
    def name(self) -> str:
        return f"api:{self.key.name}" if self.key else "api"

    @property
    def clouds(self) -> tuple[str, ...] | None:
        return self.key.clouds if self.key else None

    def allows_cloud(self, cloud: str | None) -> bool:
        return self.key is None or self.key.knows(cloud)

    def ensure_cloud(self, cloud: str | None) -> None:
        """Raises ProblemError unless the caller may use this cloud."""
        if self.key is None or self.allows_cloud(cloud):
            return
        allowed = ", ".join(self.clouds or ())
        raise ProblemError(
            ProblemCode.FORBIDDEN,
            f"key {self.key.name} is limited to certain clouds",
            errors=[FieldError(field="cloud", detail=f"must be one of: {allowed}; got {cloud!r}")],
        )

    def ensure_visible(self, record: ImportRecord) -> None:
        """Raises NotFound for imports of other clouds: even their existence is not disclosed."""
        if not self.allows_cloud(record.cloud):
            raise NotFound("import", record.id)


class RateLimiter:
    """Limits requests per key and minute, counted in Redis for all API processes together."""

    def __init__(self, settings: ApiSettings) -> None:
        options = {"socket_timeout": 1, "socket_connect_timeout": 1}
        storage = storage_from_string(settings.redis, **options)
        self._limiter = SlidingWindowCounterRateLimiter(storage)
        self._limit = RateLimitItemPerMinute(settings.api_rate_per_minute, namespace="ims-api")

    def hit(self, key: ApiKey) -> None:
        """Count a request. Raises ProblemError if it exceeds the limit."""
        try:
            if self._limiter.hit(self._limit, key.id):
                return
            reset, _ = self._limiter.get_window_stats(self._limit, key.id)
        except (RedisError, OSError) as exc:
            # Fail open if the rate-limit store is down.
            logger.warning("requests are not counted: Redis is down", extra={"reason": str(exc)})
            return
        raise ProblemError(
            ProblemCode.RATE_LIMITED,
            f"key {key.name} exceeds {self._limit.amount} requests per minute",
            headers={"Retry-After": f"{max(reset - time.time(), 1):.0f}"},
        )


async def direct_backend(request: Request) -> DirectBackend:
    backend: DirectBackend = request.app.state.backend
    return backend


Backend = Annotated[DirectBackend, Depends(direct_backend)]


def add_authentication(app: FastAPI) -> None:
    """Authenticate the caller before the body is read."""

    @app.middleware("http")
    async def authenticate(request: Request, call_next: RequestResponseEndpoint) -> Response:
        if request.url.path.startswith(_PROTECTED):
            try:
                request.state.caller = await run_in_threadpool(_authenticate, request)
            except (ProblemError, Unavailable) as exc:
                return problem_response(exc)
        return await call_next(request)


def _authenticate(request: Request) -> Caller | None:
    state, authorization = request.app.state, request.headers.get("Authorization")
    if not state.auth:
        return Caller(None)
    if request.url.path == _SIGNED and authorization is None:
        return None
    scheme, text = get_authorization_scheme_param(authorization)
    key = state.backend.ledger.api_keys.check(text.strip()) if scheme.lower() == "bearer" else None
    if key is None:
        raise _invalid_key()
    state.rate_limiter.hit(key)
    return Caller(key)


def _invalid_key() -> ProblemError:
    return ProblemError(
        ProblemCode.UNAUTHENTICATED,
        "the API key is missing, wrong, expired or revoked; send `Authorization: Bearer ims_…`",
    )


def requires(scope: Scope) -> object:
    """A dependency: the caller, whose key must have this scope."""

    async def caller(
        request: Request, _documented: Annotated[object, Depends(api_key_scheme)]
    ) -> Caller:
        return authorize(request, scope)

    return Depends(caller)


def authorize(request: Request, scope: Scope) -> Caller:
    """The caller, if its key has this scope. Raises ProblemError."""
    caller: Caller | None = request.state.caller
    if caller is None:
        raise _invalid_key()
    if caller.key is not None and not caller.key.may(scope):
        raise ProblemError(
            ProblemCode.FORBIDDEN, f"key {caller.key.name} lacks the required scope {scope}"
        )
    return caller


Reader = Annotated[Caller, requires(Scope.READ)]
Submitter = Annotated[Caller, requires(Scope.SUBMIT)]
Admin = Annotated[Caller, requires(Scope.ADMIN)]


def _admin_of_all_clouds(caller: Admin) -> Caller:
    # A key limited to some clouds could otherwise create one without limits.
    if caller.clouds is not None:
        raise ProblemError(
            ProblemCode.FORBIDDEN, "this operation requires a key that is not limited to clouds"
        )
    return caller


AdminOfAllClouds = Annotated[Caller, Depends(_admin_of_all_clouds)]
