"""Every error of the API: problem details (RFC 9457) that name the field and say what to do."""

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.routing import compile_path

from ims_config.import_request import InvalidRequest
from ims_config.validation import field_errors
from ims_ledger.errors import Conflict, KeyConflict, NotFound, Unavailable

logger = logging.getLogger(__name__)

MEDIA_TYPE: Final = "application/problem+json"
# What every operation that needs a key may answer with, and every one that takes a body.
ALWAYS: Final = (
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus.FORBIDDEN,
    HTTPStatus.UNPROCESSABLE_ENTITY,
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.SERVICE_UNAVAILABLE,
)
WITH_BODY: Final = (*ALWAYS, HTTPStatus.BAD_REQUEST, HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
# The ledger is a database nearby: it is back soon, or a person is at it.
LEDGER_RETRY_S: Final = 5


class FieldError(BaseModel):
    """What is wrong with one field of the request."""

    field: str = Field(examples=["min_disk"])
    detail: str = Field(examples=["must be 1 to 1024 GB for a system image; got 0"])


class Problem(BaseModel):
    """Why a request was not carried out (RFC 9457)."""

    type: str = Field("about:blank", description="`about:blank`: the status says what it is.")
    title: str = Field(description="The words of the status.", examples=["Unprocessable Content"])
    status: int = Field(description="The HTTP status.", examples=[422])
    detail: str = Field(description="What is wrong and what to do.")
    errors: list[FieldError] = Field(
        default_factory=list, description="One for each field that breaks a rule."
    )
    import_id: str | None = Field(None, description="The import that is in the way, if one is.")


class Refusal(Exception):
    """Ends a request with a problem."""

    def __init__(
        self,
        status: HTTPStatus,
        detail: str,
        *,
        errors: Sequence[FieldError] = (),
        headers: Mapping[str, str] | None = None,
        import_id: str | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.headers = dict(headers or {})
        self.problem = Problem(
            title=status.phrase,
            status=status,
            detail=detail,
            errors=list(errors),
            import_id=import_id,
        )


def broken_rules(exc: InvalidRequest) -> Refusal:
    return Refusal(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        "the request breaks rules of IMS; nothing was recorded",
        errors=[FieldError(field=error.field, detail=error.detail) for error in exc.errors],
    )


def conflict(exc: KeyConflict) -> Refusal:
    # Only the id: the import may be one that this caller must not see.
    return Refusal(
        HTTPStatus.CONFLICT,
        f"this Idempotency-Key stands for another request, import {exc.current.id}; "
        "use a new key for a new request",
        errors=[FieldError(field="Idempotency-Key", detail="was used for another request")],
        import_id=exc.current.id,
    )


def no_ledger(exc: Exception) -> Refusal:
    # Its message names hosts and files: for the log.
    logger.error("the ledger is gone", extra={"why": str(exc)})
    return Refusal(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "the ledger cannot be reached; nothing was recorded, ask again",
        headers={"Retry-After": str(LEDGER_RETRY_S)},
    )


def answer_with_problems(app: FastAPI) -> None:
    """Let the app answer every error with a problem."""
    refusals: dict[type[Exception], Callable[[Any], Refusal]] = {
        Refusal: lambda refusal: refusal,
        InvalidRequest: broken_rules,
        KeyConflict: conflict,
        NotFound: lambda exc: Refusal(HTTPStatus.NOT_FOUND, str(exc)),
        Conflict: lambda exc: Refusal(HTTPStatus.CONFLICT, str(exc)),
        Unavailable: no_ledger,
        RequestValidationError: _unreadable,
        # uvicorn logs the traceback; it is not for the one who asked.
        Exception: lambda _: Refusal(
            HTTPStatus.INTERNAL_SERVER_ERROR, "this is a defect of ims-import; its log tells more"
        ),
    }
    for kind, refusal_of in refusals.items():
        app.add_exception_handler(kind, _handler(refusal_of))
    app.add_exception_handler(
        HTTPException, lambda request, exc: answer(_no_such_operation(app, request, exc))
    )


def _handler(refusal_of: Callable[[Any], Refusal]) -> Callable[..., Awaitable[JSONResponse]]:
    async def handle(_: Request, exc: Exception) -> JSONResponse:
        return answer(refusal_of(exc))

    return handle


def _no_such_operation(app: FastAPI, request: Request, exc: Any) -> Refusal:
    status = HTTPStatus(exc.status_code)
    if status is HTTPStatus.NOT_FOUND:
        return Refusal(status, "no such address; see /docs")
    if status is HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = ", ".join(_methods(app, request.url.path))
        return Refusal(
            status, f"this address knows {allowed}; see /docs", headers={"Allow": allowed}
        )
    return Refusal(status, str(exc.detail), headers=exc.headers)


def limit_bodies(app: FastAPI, most_bytes: int) -> None:
    """Refuse larger bodies while they arrive, with a problem as for everything else."""
    app.add_middleware(RequestBodyLimitMiddleware, max_body_size=most_bytes)
    detail = f"the body must be at most {most_bytes} bytes; send a batch in parts"

    @app.middleware("http")
    async def explained(
        request: Request, call_next: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        response = await call_next(request)
        if response.status_code == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            return answer(Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, detail))
        return response


def _methods(app: FastAPI, path: str) -> list[str]:
    """Of all operations at this address; a route knows only its own."""
    return sorted(
        method.upper()
        for template, operations in app.openapi()["paths"].items()
        if compile_path(template)[0].match(path)
        for method in operations
    )


def _unreadable(exc: RequestValidationError) -> Refusal:
    if any(error["type"] == "json_invalid" for error in exc.errors()):
        why = str(exc.errors()[0]["ctx"]["error"])
        errors = [FieldError(field="body", detail=f"is no JSON: {why}")]
        return Refusal(HTTPStatus.BAD_REQUEST, "the body must be JSON", errors=errors)
    errors = [
        # Paths begin with the part of the request that holds the field: query, body, path.
        FieldError(field=error.field.partition(".")[2] or error.field, detail=error.rule)
        for error in field_errors(exc, show_values=False)
    ]
    return Refusal(
        HTTPStatus.UNPROCESSABLE_ENTITY, "the request breaks rules of the API", errors=errors
    )


def answer(refusal: Refusal) -> JSONResponse:
    return JSONResponse(
        refusal.problem.model_dump(mode="json"),
        status_code=refusal.status,
        headers=refusal.headers,
        media_type=MEDIA_TYPE,
    )


def documented(*statuses: HTTPStatus) -> dict[int | str, dict[str, Any]]:
    """The problems an operation may answer with, for the OpenAPI document."""
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        int(status): {"description": status.phrase, "content": {MEDIA_TYPE: {"schema": schema}}}
        for status in statuses
    }
