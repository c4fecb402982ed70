"""The operations on imports, under /v1/imports."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Annotated, Any, Final

from fastapi import APIRouter, Body, Header, Path, Query, Request, Response
from fastapi.responses import StreamingResponse

from ims_config.import_request import InvalidRequest, parse_request
from ims_config.records import ImportRecord, ImportResult, Scope
from ims_ledger import KeyConflict, NotFound
from ims_producer.api import schemas
from ims_producer.api.auth import Caller, client_of, needs, refuse_cloud
from ims_producer.api.problems import (
    ALWAYS,
    WITH_BODY,
    Refusal,
    broken_rules,
    conflict,
    documented,
)
from ims_producer.api.schemas import (
    Absent,
    Batch,
    BatchAnswer,
    BatchAnswers,
    BatchItem,
    Cancel,
    EventNumber,
    Events,
    EventsQuery,
    Filters,
    KeyText,
    Page,
    Resolve,
)
from ims_producer.api.stream import EVENT_STREAM, stream
from ims_producer.client import Client, Submission

S = HTTPStatus
_REQUEST_BODY: Final = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"$ref": "#/components/schemas/ImportRequest"},
                "example": schemas.EXAMPLE,
            }
        },
    }
}
_LOCATION: Final = {
    "Location": {"description": "Where the import is.", "schema": {"type": "string"}}
}

router = APIRouter(prefix="/v1", tags=["imports"])

Read = Annotated[Caller, needs(Scope.READ)]
Submit = Annotated[Caller, needs(Scope.SUBMIT)]
Admin = Annotated[Caller, needs(Scope.ADMIN)]
ImportId = Annotated[
    str, Path(pattern=r"^[A-Za-z0-9_\-]{1,43}$", examples=["6f2c8f0e-3a51-4c27-8a52-0d4f2f4b7c1d"])
]


@router.post(
    "/imports",
    status_code=S.ACCEPTED,
    summary="Ask for an import",
    responses={
        202: {"description": "Recorded.", "headers": _LOCATION},
        200: {
            "description": "This Idempotency-Key had this import already.",
            "model": ImportRecord,
            "headers": _LOCATION,
        },
        **documented(*WITH_BODY, S.CONFLICT),
    },
    openapi_extra=_REQUEST_BODY,
)
def submit(
    request: Request,
    response: Response,
    caller: Submit,
    body: Annotated[Any, Body()],
    idempotency_key: Annotated[
        KeyText | Absent,
        Header(description="The same key with the same body gives the same import."),
    ] = None,
) -> ImportRecord:
    """Records the import and queues it. It then runs in the background until it has ended."""
    asked = _ask(client_of(request), caller, body, idempotency_key)
    response.headers["Location"] = f"/v1/imports/{asked.record.id}"
    response.status_code = S.ACCEPTED if asked.created else S.OK
    return asked.record


def _ask(client: Client, caller: Caller, body: Any, key: str | None) -> Submission:
    wanted = parse_request(body, strict=True)
    refuse_cloud(caller, wanted.cloud)
    return client.submit_import(wanted, key=key, requested_by=caller.name)


@router.post(
    "/imports:batch",
    summary="Ask for up to 1,000 imports",
    responses=documented(*WITH_BODY),
)
def submit_batch(request: Request, caller: Submit, batch: Batch) -> BatchAnswers:
    """Each item is recorded or refused by itself; the answer tells what came of each."""
    client = client_of(request)
    return BatchAnswers(
        items=[_answer(client, caller, index, item) for index, item in enumerate(batch.items)]
    )


def _answer(client: Client, caller: Caller, index: int, item: BatchItem) -> BatchAnswer:
    try:
        asked = _ask(client, caller, item.request, item.key)
    except InvalidRequest as exc:
        return _refused(index, broken_rules(exc))
    except KeyConflict as exc:
        return _refused(index, conflict(exc))
    except Refusal as refusal:
        return _refused(index, refusal)
    return BatchAnswer(index=index, status=202 if asked.created else 200, id=asked.record.id)


def _refused(index: int, refusal: Refusal) -> BatchAnswer:
    status: Any = int(refusal.status)
    return BatchAnswer(index=index, status=status, problem=refusal.problem)


@router.get("/imports", summary="List imports, newest first", responses=documented(*ALWAYS))
def list_imports(request: Request, caller: Read, filters: Annotated[Filters, Query()]) -> Page:
    """One page; `next` is the cursor of the next one."""
    key, _, value = (filters.tag or "").partition("=")
    limit = filters.limit
    try:
        found = client_of(request).list(
            states=filters.state,
            name=filters.name,
            cloud=filters.cloud,
            clouds=caller.clouds,
            tag=(key, value) if filters.tag else None,
            created_after=filters.created_after,
            created_before=filters.created_before,
            limit=limit + 1,
            before=schemas.id_of(filters.cursor) if filters.cursor else None,
        )
    except NotFound as exc:
        raise schemas.bad_cursor() from exc
    more = len(found) > limit
    return Page(items=found[:limit], next=schemas.cursor_of(found[limit - 1]) if more else None)


@router.get(
    "/imports/{import_id}",
    summary="See how an import stands",
    responses=documented(*ALWAYS, S.NOT_FOUND),
)
def get_import(request: Request, caller: Read, import_id: ImportId) -> ImportResult:
    """The record; `image` is there when it SUCCEEDED, `error` tells why it FAILED."""
    return _seen(request, caller, import_id)


def _seen(request: Request, caller: Caller, import_id: str) -> ImportResult:
    record = client_of(request).get(import_id)
    caller.ensure_visible(record)
    return record


@router.get(
    "/imports/{import_id}/events",
    summary="See what happened to an import, or follow it",
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
        204: {"description": "With Last-Event-ID: it has ended, and nothing came after that."},
        **documented(*ALWAYS, S.NOT_FOUND),
    },
)
def get_events(
    request: Request,
    caller: Read,
    import_id: ImportId,
    *,
    accept: Annotated[str, Header(include_in_schema=False)] = "application/json",
    query: Annotated[EventsQuery, Query()],
    last_event_id: Annotated[
        EventNumber | Absent, Header(description="Go on behind this event.")
    ] = None,
) -> Any:
    """All events so far, as JSON; with `Accept: text/event-stream` as server-sent events, followed
    until the import has ended: `progress` without an id, a comment every 15 s against silence."""
    record = _seen(request, caller, import_id)
    client = client_of(request)
    behind = int(last_event_id) if last_event_id else query.after
    if EVENT_STREAM not in accept:
        return Events(items=client.events(import_id, after=behind))
    if last_event_id and record.state.terminal and not client.events(import_id, after=behind):
        # The only answer that ends an EventSource's attempts to connect again.
        return Response(status_code=S.NO_CONTENT)
    return StreamingResponse(
        stream(client, import_id, after=behind),
        media_type=EVENT_STREAM,
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


@router.post(
    "/imports/{import_id}/cancel",
    status_code=S.ACCEPTED,
    summary="Cancel an import",
    responses=documented(*WITH_BODY, S.NOT_FOUND, S.CONFLICT),
)
def cancel(
    request: Request, caller: Submit, import_id: ImportId, body: Cancel | None = None
) -> ImportResult:
    """Before IMS was asked it is CANCELED at once. IMS cannot cancel a job: after that the job is
    followed, and its image deleted when it is done, or kept with `leave_image`."""
    _seen(request, caller, import_id)
    leave = body is not None and body.leave_image
    return client_of(request).cancel(import_id, leave_image=leave, by=caller.name)


@router.post(
    "/imports/{import_id}/retry",
    status_code=S.ACCEPTED,
    summary="Try a FAILED or CANCELED import again",
    responses=documented(*ALWAYS, S.NOT_FOUND, S.CONFLICT),
)
def retry(request: Request, caller: Submit, import_id: ImportId) -> ImportResult:
    """A new attempt under the same id."""
    _seen(request, caller, import_id)
    return client_of(request).retry(import_id, by=caller.name)


@router.post(
    "/imports/{import_id}/resolve",
    status_code=S.ACCEPTED,
    summary="Say what became of an UNCERTAIN import",
    responses=documented(*WITH_BODY, S.NOT_FOUND, S.CONFLICT),
)
def resolve(request: Request, caller: Admin, import_id: ImportId, body: Resolve) -> ImportResult:
    """After somebody has looked at the images in IMS's console."""
    _seen(request, caller, import_id)
    image_id = body.image_id if body.how == "image" else None
    return client_of(request).resolve(
        import_id, resubmit=body.how == "resubmit", image_id=image_id, by=caller.name
    )


def openapi_schemas() -> Mapping[str, Any]:
    """Schemas that no operation's model brings by itself."""
    schema = schemas.request_schema()
    parts: dict[str, Any] = schema.pop("$defs", {})
    return parts | {"ImportRequest": schema}
