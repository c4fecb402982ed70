"""Assembles the FastAPI app: routers, middleware, exception handlers and the OpenAPI document."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any, Final

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline
from pydantic.json_schema import models_json_schema

from ims_config.import_request import ImportRequest
from ims_config.settings import ApiSettings
from ims_producer.api import admin, health, imports, obs_events, webhooks
from ims_producer.api.auth import RateLimiter, add_authentication
from ims_producer.api.problems import (
    COMMON_ERRORS,
    add_exception_handlers,
    limit_body_size,
    problem_responses,
)
from ims_producer.backends.direct import DirectBackend
from ims_producer.http_contract import Problem

MAX_BODY_BYTES: Final = 1024 * 1024

_DESCRIPTION: Final = """
Imports disk image files from OBS into the Image Management Service of Open Telekom Cloud, in the
background: `POST /v1/imports` records a request and responds at once, workers execute it, and
`GET /v1/imports/{id}` or its `/events` show its state.

Errors are problem details (RFC 9457) with a stable `code`, and one entry in `errors` for each field
that breaks a rule. Every operation except `/healthz` and `/readyz` needs an API key,
`Authorization: Bearer ims_…`.
"""


def make_app(settings: ApiSettings, *, auth: bool = True) -> FastAPI:
    """The ASGI app on the ledger and broker of these settings; it holds no cloud credentials.

    `auth=False` allows everything: for a loopback address only.
    """
    backend = DirectBackend(settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        backend.close()

    app: FastAPI = FastAPIOffline(
        redoc_url=None,
        title="ims-import",
        version=version("ims-import"),
        description=_DESCRIPTION,
        license_info={"name": "Apache-2.0"},
        lifespan=lifespan,
    )
    app.state.settings, app.state.backend, app.state.auth = settings, backend, auth
    app.state.rate_limiter = RateLimiter(settings)
    add_exception_handlers(app)
    # The middleware added last runs first.
    limit_body_size(app, MAX_BODY_BYTES)
    add_authentication(app)
    health.add_metrics(app, backend)
    for module in (imports, admin, webhooks, obs_events):
        app.include_router(module.router, responses=problem_responses(*COMMON_ERRORS))
    app.include_router(health.router)
    _extend_openapi(app)
    return app


def _extend_openapi(app: FastAPI) -> None:
    """Add the schemas that no operation declares as a model."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = generate()
            _, schemas = models_json_schema(
                [(ImportRequest, "validation"), (Problem, "validation")],
                ref_template="#/components/schemas/{model}",
            )
            document["components"]["schemas"] |= schemas["$defs"]
        assert app.openapi_schema is not None  # noqa: S101  # `generate` caches the document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way
