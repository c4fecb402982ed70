"""The API's app: its operations, its documents, and what all answers have in common."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any, Final

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline

from ims_config.settings import ApiSettings
from ims_producer.api import admin, health, imports, obs_events, webhooks
from ims_producer.api.auth import Rate, ask_for_keys
from ims_producer.api.problems import Problem, answer_with_problems, limit_bodies
from ims_producer.client import Client

MOST_BYTES: Final = 1024 * 1024

_ABOUT: Final = """
Imports disk image files from OBS into Open Telekom Cloud's Image Management Service, in the
background: `POST /v1/imports` records a request and answers at once, workers do the rest, and
`GET /v1/imports/{id}` or its `/events` tell how it stands.

Errors are problem details (RFC 9457), with one entry in `errors` for each field that breaks a rule.
Every call but `/healthz` and `/readyz` needs an API key, `Authorization: Bearer ims_…`.
"""


def make_app(settings: ApiSettings, *, auth: bool = True) -> FastAPI:
    """An ASGI app on the ledger and the broker of these settings; it holds no cloud credentials.

    `auth=False` opens everything: for a loopback address only.
    """
    # Never the client of another API, whatever the environment says.
    client = Client(settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        client.close()

    app: FastAPI = FastAPIOffline(
        redoc_url=None,
        title="ims-import",
        version=version("ims-import"),
        description=_ABOUT,
        license_info={"name": "Apache-2.0"},
        lifespan=lifespan,
    )
    app.state.settings = settings
    app.state.client, app.state.auth, app.state.rate = client, auth, Rate(settings)
    answer_with_problems(app)
    # The last one added is the first to see a request.
    limit_bodies(app, MOST_BYTES)
    ask_for_keys(app)
    health.measure(app, client)
    app.include_router(imports.router)
    app.include_router(admin.router)
    app.include_router(webhooks.router)
    app.include_router(obs_events.router)
    app.include_router(health.router)
    _complete_document(app)
    return app


def _complete_document(app: FastAPI) -> None:
    """Add what no model of an operation brings by itself."""
    made = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = made()
            schemas = document["components"]["schemas"]
            schemas |= imports.openapi_schemas()
            schemas["Problem"] = Problem.model_json_schema(
                ref_template="#/components/schemas/{model}"
            )
            schemas |= schemas["Problem"].pop("$defs", {})
        assert app.openapi_schema is not None  # noqa: S101  # FastAPI keeps what it made
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way
