"""Whether the API lives, can take requests, and what Prometheus may know."""

import time
from collections.abc import Awaitable, Callable, Iterable
from http import HTTPStatus
from typing import Annotated, Literal

from fastapi import APIRouter, FastAPI, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram
from prometheus_client import generate_latest as as_text
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from pydantic import BaseModel
from redis import RedisError

from ims_config.records import Scope, State
from ims_ledger import LedgerOutdated, LedgerUnavailable
from ims_producer.api.auth import Caller, client_of, needs
from ims_producer.api.problems import documented
from ims_producer.client import Client

router = APIRouter(tags=["health"])

S = HTTPStatus


class Health(BaseModel):
    """The process answers."""

    status: Literal["ok"] = "ok"


class Readiness(BaseModel):
    """Without the ledger nothing can be recorded; without Redis it is recorded and runs later."""

    ledger: Literal["ok", "unreachable", "outdated"]
    queue: Literal["ok", "unreachable"]


@router.get("/healthz", summary="Whether this process answers")
async def healthz() -> Health:
    return Health()


@router.get(
    "/readyz",
    summary="Whether requests can be recorded",
    responses={503: {"description": "The ledger cannot be used.", "model": Readiness}},
)
def readyz(request: Request, response: Response) -> Readiness:
    client = client_of(request)
    ready = Readiness(ledger=_ledger(client), queue=_queue(client))
    if ready.ledger != "ok":
        response.status_code = S.SERVICE_UNAVAILABLE
    return ready


def _ledger(client: Client) -> Literal["ok", "unreachable", "outdated"]:
    try:
        return "ok" if client.ledger.is_current() else "outdated"
    except LedgerOutdated:
        return "outdated"
    except LedgerUnavailable:
        return "unreachable"


def _queue(client: Client) -> Literal["ok", "unreachable"]:
    try:
        client.ping()
    except (RedisError, OSError):
        return "unreachable"
    return "ok"


@router.get(
    "/metrics",
    summary="Metrics in Prometheus' text format",
    response_class=Response,
    responses={
        200: {"content": {"text/plain": {"schema": {"type": "string"}}}},
        **documented(S.UNAUTHORIZED, S.FORBIDDEN, S.TOO_MANY_REQUESTS, S.SERVICE_UNAVAILABLE),
    },
)
def metrics(request: Request, _: Annotated[Caller, needs(Scope.READ)]) -> Response:
    return Response(as_text(request.app.state.registry), media_type=CONTENT_TYPE_LATEST)


class Imports(Collector):
    """How many imports are in each state, read when asked for."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def describe(self) -> Iterable[Metric]:
        # Registering would otherwise read the ledger.
        return [self._family()]

    def collect(self) -> Iterable[Metric]:
        family = self._family()
        counts = self._client.ledger.imports.counts()
        for state in State:
            family.add_metric([state.value], counts.get(state, 0))
        yield family

    def _family(self) -> GaugeMetricFamily:
        return GaugeMetricFamily(
            "ims_import_imports", "Imports in the ledger, by state.", labels=["state"]
        )


def measure(app: FastAPI, client: Client) -> None:
    """Count the app's requests by operation; addresses with ids would be endless."""
    registry = app.state.registry = CollectorRegistry()
    registry.register(Imports(client))
    labels = ["method", "operation"]
    requests = Counter(
        "ims_import_http_requests", "Requests answered.", [*labels, "status"], registry=registry
    )
    seconds = Histogram(
        "ims_import_http_request_seconds", "Until the answer began.", labels, registry=registry
    )

    @app.middleware("http")
    async def count(
        request: Request, call_next: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        began = time.perf_counter()
        response = await call_next(request)
        route = request.scope.get("route")
        operation = getattr(route, "path", "none")
        requests.labels(request.method, operation, response.status_code).inc()
        seconds.labels(request.method, operation).observe(time.perf_counter() - began)
        return response
