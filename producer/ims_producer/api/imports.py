"""Operations on imports, under /v1/imports."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Annotated, Any, Final

from fastapi import APIRouter, Header, Path, Query, Response
from fastapi import Body as BodyParameter
from fastapi.responses import StreamingResponse

from ims_config.import_request import InvalidRequest, parse_request
from ims_config.records import ImportRecord, ImportResult
from ims_ledger import KeyConflict, NotFound
from ims_producer.api.auth import Admin, Backend, Caller, Reader, Submitter
from ims_producer.api.problems import BODY_ERRORS, ProblemError, problem_of, problem_responses
from ims_producer.api.schemas import (
    EXAMPLE,
    Absent,
    Batch,
    BatchItem,
    BatchResult,
    BatchResults,
    Cancel,
    EventNumber,
    EventsQuery,
    Filters,
    KeyText,
    Resolve,
)
from ims_producer.api.stream import EVENT_STREAM, event_stream
from ims_producer.backends.protocol import Submission
from ims_producer.http_contract import (
    Events,
    FieldError,
    Page,
    ProblemCode,
    Resource,
)

S = HTTPStatus
_REQUEST_BODY: Final = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"$ref": "#/components/schemas/ImportRequest"},
                "example": EXAMPLE,
            }
        },
    }
}
_LOCATION: Final = {
    "Location": {"description": "The path of the import.", "schema": {"type": "string"}}
}

router = APIRouter(prefix="/v1", tags=["imports"])

ImportId = Annotated[
    str, Path(pattern=r"^[A-Za-z0-9_\-]{1,43}$", examples=["6f2c8f0e-3a51-4c27-8a52-0d4f2f4b7c1d"])
]


@router.post(
    "/imports",
    status_code=S.ACCEPTED,
    summary="Request an import",
    responses={
        202: {"description": "Recorded.", "headers": _LOCATION},
        200: {
            "description": "The import of this Idempotency-Key exists.",
            "model": ImportRecord,
            "headers": _LOCATION,
        },
        **problem_responses(*BODY_ERRORS, S.CONFLICT),
    },
    openapi_extra=_REQUEST_BODY,
)
def submit(
    backend: Backend,
    response: Response,
    caller: Submitter,
    body: Annotated[Any, BodyParameter()],
    idempotency_key: Annotated[
        KeyText | Absent,
        Header(description="The same key with the same body returns the same import."),
    ] = None,
) -> ImportRecord:
    """Records the import and queues it. It runs in the background until it ends."""
    submission = _submit(backend, caller, body, idempotency_key)
    response.headers["Location"] = f"/v1/imports/{submission.record.id}"
    response.status_code = S.ACCEPTED if submission.created else S.OK
    return submission.record


def _submit(
    backend: Backend, caller: Caller, raw: Mapping[str, object], key: str | None
) -> Submission:
    request = parse_request(raw, strict=True)
    caller.ensure_cloud(request.cloud)
    return backend.submit_import(request, key=key, requested_by=caller.name)


@router.post(
    "/imports:batch",
    summary="Request up to 1,000 imports",
    responses=problem_responses(*BODY_ERRORS),
)
def submit_batch(backend: Backend, caller: Submitter, batch: Batch) -> BatchResults:
    """Each item is recorded or rejected independently; the response has a result for each."""
    return BatchResults(
        items=[_result(backend, caller, index, item) for index, item in enumerate(batch.items)]
    )


def _result(backend: Backend, caller: Caller, index: int, item: BatchItem) -> BatchResult:
    try:
        submission = _submit(backend, caller, item.request, item.key)
    except (InvalidRequest, KeyConflict, ProblemError) as exc:
        problem = problem_of(exc).problem
        status: Any = problem.status
        return BatchResult(index=index, status=status, problem=problem)
    status = 202 if submission.created else 200
    return BatchResult(index=index, status=status, id=submission.record.id)


@router.get("/imports", summary="List imports, newest first")
def list_imports(backend: Backend, caller: Reader, query: Annotated[Filters, Query()]) -> Page:
    """One page; `next` is the cursor of the next page."""
    key, _, value = (query.tag or "").partition("=")
    try:
        records = backend.list_imports(
            states=query.state,
            name=query.name,
            cloud=query.cloud,
            tag=(key, value) if query.tag else None,
            created_after=query.created_after,
            created_before=query.created_before,
            limit=query.limit + 1,
            before=query.cursor,
            clouds=caller.clouds,
        )
    except NotFound as exc:
        raise ProblemError(
            ProblemCode.INVALID_REQUEST,
            "the request breaks rules of the API",
            errors=[FieldError(field="cursor", detail="must be the `next` of a previous page")],
            missing=Resource(kind=exc.kind, id=exc.id),
        ) from exc
    page = records[: query.limit]
    more = len(records) > query.limit
    return Page(items=page, next=page[-1].id if more else None)


@router.get(
    "/imports/{import_id}",
    summary="Get an import",
    responses=problem_responses(S.NOT_FOUND),
)
def get_import(backend: Backend, caller: Reader, import_id: ImportId) -> ImportResult:
    """The record: with `image` if it SUCCEEDED, with `error` if it FAILED."""
    return _visible(backend, caller, import_id)


def _visible(backend: Backend, caller: Caller, import_id: str) -> ImportResult:
    record = backend.get(import_id)
    caller.ensure_visible(record)
    return record


@router.get(
    "/imports/{import_id}/events",
    summary="Get or follow the history of an import",
    response_model=Events,
    responses={
        200: {
            "content": {
                EVENT_STREAM: {
                    "schema": {"type": "string"},
                    "example": 'id: 7\nevent: transition\ndata: {"to_state": "RUNNING", …}\n\n',
                }
            }
        },
        204: {"description": "With Last-Event-ID: the import has ended without later events."},
        **problem_responses(S.NOT_FOUND),
    },
)
def get_events(
    backend: Backend,
    caller: Reader,
    import_id: ImportId,
    *,
    accept: Annotated[str, Header(include_in_schema=False)] = "application/json",
    query: Annotated[EventsQuery, Query()],
    last_event_id: Annotated[
        EventNumber | Absent, Header(description="Continue behind this event.")
    ] = None,
) -> Events | Response:
    """All events so far, as JSON. With `Accept: text/event-stream`, server-sent events until the
    import ends: `progress` events have no id, and a comment every 15 s keeps the connection open.
    """
    record = _visible(backend, caller, import_id)
    after = int(last_event_id) if last_event_id else query.after
    if EVENT_STREAM not in accept:
        return Events(items=backend.events(import_id, after=after))
    if last_event_id and record.state.terminal and not backend.events(import_id, after=after):
        # Only this response stops an EventSource from reconnecting.
        return Response(status_code=S.NO_CONTENT)
    return StreamingResponse(
        event_stream(backend, import_id, after=after),
        media_type=EVENT_STREAM,
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


@router.post(
    "/imports/{import_id}/cancel",
    status_code=S.ACCEPTED,
    summary="Cancel an import",
    responses=problem_responses(*BODY_ERRORS, S.NOT_FOUND, S.CONFLICT),
)
def cancel(
    backend: Backend, caller: Submitter, import_id: ImportId, body: Cancel | None = None
) -> ImportResult:
    """An import that was not sent to IMS is CANCELED at once. IMS cannot cancel a job: otherwise
    the job is tracked to its end, and its image is then deleted, or kept with `leave_image`."""
    _visible(backend, caller, import_id)
    leave_image = body is not None and body.leave_image
    return backend.cancel(import_id, leave_image=leave_image, by=caller.name)


@router.post(
    "/imports/{import_id}/retry",
    status_code=S.ACCEPTED,
    summary="Retry a FAILED or CANCELED import",
    responses=problem_responses(S.NOT_FOUND, S.CONFLICT),
)
def retry(backend: Backend, caller: Submitter, import_id: ImportId) -> ImportResult:
    """A new attempt under the same id."""
    _visible(backend, caller, import_id)
    return backend.retry(import_id, by=caller.name)


@router.post(
    "/imports/{import_id}/resolve",
    status_code=S.ACCEPTED,
    summary="Decide how an UNCERTAIN import continues",
    responses=problem_responses(*BODY_ERRORS, S.NOT_FOUND, S.CONFLICT),
)
def resolve(backend: Backend, caller: Admin, import_id: ImportId, body: Resolve) -> ImportResult:
    """Look for the image in the IMS console first."""
    _visible(backend, caller, import_id)
    image_id = body.image_id if body.how == "image" else None
    return backend.resolve(
        import_id, resubmit=body.how == "resubmit", image_id=image_id, by=caller.name
    )
