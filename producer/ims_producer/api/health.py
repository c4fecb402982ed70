"""Liveness, readiness and Prometheus metrics of the API."""

import time
from collections.abc import Iterable
from http import HTTPStatus
from typing import Literal

from fastapi import APIRouter, FastAPI, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram
from prometheus_client import generate_latest as as_text
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from pydantic import BaseModel
from starlette.middleware.base import RequestResponseEndpoint

from ims_config.records import State
from ims_ledger import LedgerOutdated, LedgerUnavailable
from ims_producer.api.auth import Backend, Reader
from ims_producer.api.problems import problem_responses
from ims_producer.backends.direct import DirectBackend
from ims_producer.http_contract import Readiness

router = APIRouter(tags=["health"])

S = HTTPStatus


class Health(BaseModel):
    """The process responds."""

    status: Literal["ok"] = "ok"


@router.get("/healthz", summary="Whether this process responds")
async def healthz() -> Health:
    return Health()


@router.get(
    "/readyz",
    summary="Whether requests can be recorded",
    responses={503: {"description": "The ledger cannot be used.", "model": Readiness}},
)
def readyz(backend: Backend, response: Response) -> Readiness:
    queue: Literal["ok", "unreachable"] = "ok" if backend.queue_answers() else "unreachable"
    ready = Readiness(ledger=_ledger(backend), queue=queue)
    if ready.ledger != "ok":
        response.status_code = S.SERVICE_UNAVAILABLE
    return ready


def _ledger(backend: DirectBackend) -> Literal["ok", "unreachable", "outdated", "not_current"]:
    try:
        if not backend.ledger.is_current():
            return "outdated"
        return "ok" if backend.ledger_is_current() else "not_current"
    except LedgerOutdated:
        return "outdated"
    except LedgerUnavailable:
        return "unreachable"


@router.get(
    "/metrics",
    summary="Metrics in the text format of Prometheus",
    response_class=Response,
    responses={
        200: {"content": {"text/plain": {"schema": {"type": "string"}}}},
        **problem_responses(
            S.UNAUTHORIZED, S.FORBIDDEN, S.TOO_MANY_REQUESTS, S.SERVICE_UNAVAILABLE
        ),
    },
)
def metrics(request: Request, _: Reader) -> Response:
    return Response(as_text(request.app.state.registry), media_type=CONTENT_TYPE_LATEST)


class ImportsCollector(Collector):
    """Imports by state, counted at each scrape."""

    def __init__(self, backend: DirectBackend) -> None:
        self._backend = backend

    def collect(self) -> Iterable[Metric]:
        family = GaugeMetricFamily(
            "ims_import_imports", "Imports in the ledger, by state.", labels=["state"]
        )
        counts = self._backend.ledger.imports.counts()
        for state in State:
            family.add_metric([state.value], counts.get(state, 0))
        yield family


def add_metrics(app: FastAPI, backend: DirectBackend) -> None:
    """Count requests by operation: paths with ids would be an unlimited number of labels."""
    registry = app.state.registry = CollectorRegistry()
    registry.register(ImportsCollector(backend))
    labels = ["method", "operation"]
    requests = Counter(
        "ims_import_http_requests", "Responses sent.", [*labels, "status"], registry=registry
    )
    seconds = Histogram(
        "ims_import_http_request_seconds",
        "Time until the response starts.",
        labels,
        registry=registry,
    )

    @app.middleware("http")
    async def count(request: Request, call_next: RequestResponseEndpoint) -> Response:
        start = time.perf_counter()
        response = await call_next(request)
        route = request.scope.get("route")
        operation = getattr(route, "path", "none")
        requests.labels(request.method, operation, response.status_code).inc()
        seconds.labels(request.method, operation).observe(time.perf_counter() - start)
        return response
