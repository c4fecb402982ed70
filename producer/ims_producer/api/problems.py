"""Maps every exception of the API to problem details (RFC 9457)."""

import logging
from collections.abc import Mapping
from functools import singledispatch
from http import HTTPStatus
from typing import Any, Final, TypedDict, Unpack

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.middleware.base import RequestResponseEndpoint
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.routing import compile_path

from ims_config.import_request import InvalidRequest
from ims_config.records import ImportRecord, State
from ims_config.validation import field_errors
from ims_config.worker_reports import CloudError
from ims_ledger.errors import (
    ConcurrentTransition,
    InvalidState,
    KeyConflict,
    LedgerNotCurrent,
    NotFound,
    Unavailable,
)
from ims_producer.errors import LEDGER_OPTIONS, WorkerRefused, WorkerUnavailable
from ims_producer.http_contract import (
    PROBLEM_MEDIA_TYPE,
    FieldError,
    Problem,
    ProblemCode,
    Resource,
)

logger = logging.getLogger(__name__)

# The responses of every operation that needs a key, and further ones of operations with a body.
COMMON_ERRORS: Final = (
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus.FORBIDDEN,
    HTTPStatus.UNPROCESSABLE_ENTITY,
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.SERVICE_UNAVAILABLE,
)
BODY_ERRORS: Final = (HTTPStatus.BAD_REQUEST, HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
# A ledger is a database nearby and usually back soon; a worker has to be started.
_HEADERS: Final = {
    ProblemCode.UNAUTHENTICATED: {"WWW-Authenticate": 'Bearer realm="ims-import"'},
    ProblemCode.LEDGER_UNAVAILABLE: {"Retry-After": "5"},
    ProblemCode.WORKER_UNAVAILABLE: {"Retry-After": "30"},
    ProblemCode.SMN_UNAVAILABLE: {"Retry-After": "30"},
}


class Details(TypedDict, total=False):
    """What a problem may add to its code and detail."""

    hint: str | None
    errors: list[FieldError]
    import_id: str
    state: State
    record: ImportRecord
    rule: str
    missing: Resource
    cloud_error: CloudError


class ProblemError(Exception):
    """Ends a request with a problem."""

    def __init__(
        self,
        code: ProblemCode,
        detail: str,
        *,
        status: HTTPStatus | None = None,
        headers: Mapping[str, str] | None = None,
        **details: Unpack[Details],
    ) -> None:
        super().__init__(detail)
        status = status or code.status
        self.headers = headers or _HEADERS.get(code)
        if record := details.get("record"):
            details["import_id"], details["state"] = record.id, record.state
        self.problem = Problem(
            title=status.phrase, status=status, code=code, detail=detail, **details
        )


@singledispatch
def problem_of(exc: Exception) -> ProblemError:
    """The problem that an exception is for the caller."""
    # uvicorn logs the traceback; the caller does not get it.
    del exc
    return ProblemError(
        ProblemCode.INTERNAL_ERROR,
        "this is a defect of ims-import",
        hint="Read the log of the API.",
    )


@problem_of.register
def _(exc: ProblemError) -> ProblemError:
    return exc


@problem_of.register
def _(exc: InvalidRequest) -> ProblemError:
    return ProblemError(
        ProblemCode.INVALID_REQUEST,
        "the request breaks rules of IMS; nothing was recorded",
        errors=[FieldError(field=error.field, detail=error.detail) for error in exc.errors],
    )


@problem_of.register
def _(exc: RequestValidationError) -> ProblemError:
    if any(error["type"] == "json_invalid" for error in exc.errors()):
        reason = str(exc.errors()[0]["ctx"]["error"])
        return ProblemError(
            ProblemCode.INVALID_REQUEST,
            "the body must be JSON",
            status=HTTPStatus.BAD_REQUEST,
            errors=[FieldError(field="body", detail=f"is not JSON: {reason}")],
        )
    for error in exc.errors():
        if error["loc"][0] == "path":
            # An id that no resource can have.
            return problem_of(NotFound(error["loc"][1].removesuffix("_id"), error["input"]))
    errors = [
        # Paths begin with the part of the request that holds the field: query, body, path.
        FieldError(field=error.field.partition(".")[2] or error.field, detail=error.rule)
        for error in field_errors(exc, show_values=False)
    ]
    return ProblemError(
        ProblemCode.INVALID_REQUEST, "the request breaks rules of the API", errors=errors
    )


@problem_of.register
def _(exc: NotFound) -> ProblemError:
    return ProblemError(ProblemCode.NOT_FOUND, str(exc), missing=Resource(kind=exc.kind, id=exc.id))


@problem_of.register
def _(exc: KeyConflict) -> ProblemError:
    # Only the id: the caller may not be allowed to see this import.
    return ProblemError(
        ProblemCode.KEY_CONFLICT,
        f"this Idempotency-Key belongs to another request, import {exc.current.id}",
        hint="Use a new key for a new request.",
        errors=[FieldError(field="Idempotency-Key", detail="was used for another request")],
        import_id=exc.current.id,
    )


@problem_of.register
def _(exc: InvalidState) -> ProblemError:
    return ProblemError(ProblemCode.INVALID_STATE, str(exc), record=exc.current, rule=exc.rule)


@problem_of.register
def _(exc: ConcurrentTransition) -> ProblemError:
    return ProblemError(
        ProblemCode.CONCURRENT_CHANGE, str(exc), record=exc.current, hint="Try again."
    )


@problem_of.register
def _(exc: Unavailable) -> ProblemError:
    # The message names hosts and files: it is for the log only.
    logger.error("the ledger cannot be used", extra={"reason": str(exc)})
    return ProblemError(
        ProblemCode.LEDGER_UNAVAILABLE,
        "the ledger cannot be reached; nothing was recorded",
        hint="Try again.",
    )


@problem_of.register
def _(exc: LedgerNotCurrent) -> ProblemError:
    logger.error("the ledger is not current", extra={"reason": str(exc)})
    return ProblemError(
        ProblemCode.LEDGER_NOT_CURRENT,
        "the workers do not use the ledger of the API; nothing was recorded",
        hint=f"On the host of the API: {LEDGER_OPTIONS}",
    )


@problem_of.register
def _(exc: WorkerRefused) -> ProblemError:
    return ProblemError(
        ProblemCode.WORKER_REFUSED, str(exc), hint=exc.failure.hint, cloud_error=exc.error
    )


@problem_of.register
def _(exc: WorkerUnavailable) -> ProblemError:
    logger.warning("no worker can be asked", extra={"reason": str(exc)})
    return ProblemError(
        ProblemCode.WORKER_UNAVAILABLE,
        "no worker answered, or the queue cannot be reached",
        hint="Run: ims-import doctor",
    )


def add_exception_handlers(app: FastAPI) -> None:
    """Answer every error with a problem."""

    async def handle(_: Request, exc: Exception) -> JSONResponse:
        return problem_response(exc)

    for mapped in problem_of.registry.keys() - {object} | {Exception}:
        app.add_exception_handler(mapped, handle)

    @app.exception_handler(HTTPException)
    async def handle_http(request: Request, exc: HTTPException) -> JSONResponse:
        return problem_response(_http_problem(app, request, exc))


def _http_problem(app: FastAPI, request: Request, exc: HTTPException) -> ProblemError:
    """An exception of the framework itself, such as an unknown path."""
    status, see = HTTPStatus(exc.status_code), "See /docs."
    if status is HTTPStatus.NOT_FOUND:
        return ProblemError(ProblemCode.UNKNOWN_OPERATION, "unknown path", hint=see)
    if status is HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = ", ".join(_methods(app, request.url.path))
        return ProblemError(
            ProblemCode.UNKNOWN_OPERATION,
            f"this path allows only {allowed}",
            status=status,
            hint=see,
            headers={"Allow": allowed},
        )
    return ProblemError(
        ProblemCode.INVALID_REQUEST, str(exc.detail), status=status, headers=exc.headers
    )


def _methods(app: FastAPI, path: str) -> list[str]:
    """The methods of all operations at this path; each route knows only its own."""
    return sorted(
        method.upper()
        for template, operations in app.openapi()["paths"].items()
        if compile_path(template)[0].match(path)
        for method in operations
    )


def limit_body_size(app: FastAPI, max_bytes: int) -> None:
    """Reject larger bodies while they arrive, with a problem."""
    app.add_middleware(RequestBodyLimitMiddleware, max_body_size=max_bytes)

    @app.middleware("http")
    async def explain(request: Request, call_next: RequestResponseEndpoint) -> Response:
        response = await call_next(request)
        if response.status_code != HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            return response
        return problem_response(
            ProblemError(
                ProblemCode.BODY_TOO_LARGE,
                f"the body must be at most {max_bytes} bytes",
                hint="Split a batch into several requests.",
            )
        )


def problem_response(exc: Exception) -> JSONResponse:
    error = problem_of(exc)
    return JSONResponse(
        error.problem.model_dump(mode="json"),
        status_code=error.problem.status,
        headers=error.headers,
        media_type=PROBLEM_MEDIA_TYPE,
    )


def problem_responses(*statuses: HTTPStatus) -> dict[int | str, dict[str, Any]]:
    """The problems of an operation, for the OpenAPI document."""
    schema = {"$ref": "#/components/schemas/Problem"}
    content = {PROBLEM_MEDIA_TYPE: {"schema": schema}}
    return {int(status): {"description": status.phrase, "content": content} for status in statuses}
