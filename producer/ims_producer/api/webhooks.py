"""Who is told of imports, what they were told, and telling them again."""

from http import HTTPStatus
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from ims_config.import_request import WebhookUrl
from ims_config.records import Scope
from ims_config.webhooks import WebhookEvent
from ims_ledger import NotFound
from ims_ledger.outbox import Delivery, DeliveryState
from ims_ledger.webhook_endpoints import Webhook
from ims_producer.api.auth import Caller, client_of, needs, of_all_clouds
from ims_producer.api.problems import ALWAYS, WITH_BODY, documented
from ims_producer.api.schemas import MOST_IN_A_PAGE, Absent, CloudText

S = HTTPStatus
_ID: Final = r"^[A-Za-z0-9_\-]{1,64}$"

router = APIRouter(prefix="/v1", tags=["webhooks"])

Read = Annotated[Caller, needs(Scope.READ)]
Submit = Annotated[Caller, needs(Scope.SUBMIT)]
AdminOfAll = Annotated[Caller, Depends(of_all_clouds)]


class NewWebhook(BaseModel):
    """An address that is told of every import that matches; without events or clouds, of all."""

    model_config = ConfigDict(extra="forbid")

    url: WebhookUrl
    events: list[WebhookEvent] | None = Field(None, min_length=1)
    clouds: list[CloudText] | None = Field(None, min_length=1)


class WebhookList(BaseModel):
    items: list[Webhook]


class OfAddress(BaseModel):
    """Any address of the endpoint; its query does not matter."""

    model_config = ConfigDict(extra="forbid")

    url: WebhookUrl


class Endpoint(BaseModel):
    """What a secret belongs to: an address without its query."""

    endpoint: str


class OfDeliveries(BaseModel):
    """Which deliveries."""

    model_config = ConfigDict(extra="forbid")

    import_id: Annotated[str, Field(pattern=_ID)] | Absent = None
    state: DeliveryState | Absent = None
    limit: int = Field(50, ge=1, le=MOST_IN_A_PAGE)


class DeliveryList(BaseModel):
    """Newest first."""

    items: list[Delivery]


@router.get("/webhooks", summary="List who is told of imports", responses=documented(*ALWAYS))
def list_webhooks(request: Request, _: AdminOfAll) -> WebhookList:
    """Those registered for all imports that match; an import's own is in its request."""
    return WebhookList(items=client_of(request).webhooks())


@router.post(
    "/webhooks",
    status_code=S.CREATED,
    summary="Have an address told of imports",
    responses=documented(*WITH_BODY),
)
def add_webhook(request: Request, _: AdminOfAll, body: NewWebhook) -> Webhook:
    """Its secret is shown where the workers' key is: `ims-import webhooks secret URL`."""
    return client_of(request).add_webhook(body.url, events=body.events, clouds=body.clouds)


@router.delete(
    "/webhooks/{webhook_id}",
    status_code=S.NO_CONTENT,
    summary="Tell an address nothing more",
    responses=documented(*ALWAYS, S.NOT_FOUND),
)
def remove_webhook(
    request: Request, _: AdminOfAll, webhook_id: Annotated[str, Path(pattern=_ID)]
) -> Response:
    """What waits for it already is still sent."""
    client_of(request).remove_webhook(webhook_id)
    return Response(status_code=S.NO_CONTENT)


@router.post(
    "/webhooks:rotate",
    summary="Give an endpoint a new secret",
    responses=documented(*WITH_BODY),
)
def rotate(request: Request, _: AdminOfAll, body: OfAddress) -> Endpoint:
    """The secret before signs as well for a day."""
    return Endpoint(endpoint=client_of(request).rotate_webhook(body.url))


@router.get(
    "/deliveries",
    summary="List what receivers were told, newest first",
    responses=documented(*ALWAYS),
)
def list_deliveries(
    request: Request, caller: Read, query: Annotated[OfDeliveries, Query()]
) -> DeliveryList:
    """Also what is still to be told, and what was given up."""
    found = client_of(request).deliveries(
        import_id=query.import_id, state=query.state, clouds=caller.clouds, limit=query.limit
    )
    return DeliveryList(items=found)


@router.post(
    "/deliveries/{delivery_id}/resend",
    status_code=S.ACCEPTED,
    summary="Send a delivery once more",
    responses=documented(*ALWAYS, S.NOT_FOUND),
)
def resend(
    request: Request, caller: Submit, delivery_id: Annotated[str, Path(pattern=_ID)]
) -> Delivery:
    """With the same `webhook-id`, from the first attempt on."""
    client = client_of(request)
    known = client.ledger.outbox.get(delivery_id)
    try:
        caller.ensure_visible(client.get(known.import_id))
    except NotFound as exc:
        raise NotFound("delivery", delivery_id) from exc
    return client.resend(delivery_id)
