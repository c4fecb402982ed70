"""Operations on webhooks and their deliveries."""

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Query, Response
from pydantic import Field

from ims_config.import_request import CloudName, WebhookUrl
from ims_config.webhooks import WebhookEvent
from ims_ledger import NotFound
from ims_ledger.outbox import Delivery, DeliveryState
from ims_ledger.webhook_endpoints import Webhook
from ims_producer.api.auth import AdminOfAllClouds, Backend, Reader, Submitter
from ims_producer.api.problems import BODY_ERRORS, problem_responses
from ims_producer.api.schemas import MAX_PAGE, Absent, Body, IdText
from ims_producer.http_contract import DeliveryList, Endpoint, WebhookList

S = HTTPStatus

router = APIRouter(prefix="/v1", tags=["webhooks"])


class NewWebhook(Body):
    """A URL that receives events of all matching imports; without events or clouds, of all."""

    url: WebhookUrl
    events: list[WebhookEvent] | None = Field(None, min_length=1)
    clouds: list[CloudName] | None = Field(None, min_length=1)


class WebhookAddress(Body):
    """Any URL of the endpoint; its query does not matter."""

    url: WebhookUrl


class DeliveriesQuery(Body):
    """Which deliveries."""

    import_id: IdText | Absent = None
    state: DeliveryState | Absent = None
    limit: int = Field(50, ge=1, le=MAX_PAGE)


@router.get("/webhooks", summary="List webhooks")
def list_webhooks(backend: Backend, _: AdminOfAllClouds) -> WebhookList:
    """Those for all matching imports; the webhook of a single import is in its request."""
    return WebhookList(items=backend.webhooks())


@router.post(
    "/webhooks",
    status_code=S.CREATED,
    summary="Add a webhook",
    responses=problem_responses(*BODY_ERRORS),
)
def add_webhook(backend: Backend, _: AdminOfAllClouds, body: NewWebhook) -> Webhook:
    """To read its secret, run on a worker host: `ims-import webhooks secret URL`."""
    return backend.add_webhook(body.url, events=body.events, clouds=body.clouds)


@router.delete(
    "/webhooks/{webhook_id}",
    status_code=S.NO_CONTENT,
    summary="Remove a webhook",
    responses=problem_responses(S.NOT_FOUND),
)
def remove_webhook(backend: Backend, _: AdminOfAllClouds, webhook_id: IdText) -> Response:
    """Queued deliveries are still sent."""
    backend.remove_webhook(webhook_id)
    return Response(status_code=S.NO_CONTENT)


@router.post(
    "/webhooks:rotate",
    summary="Give an endpoint a new secret",
    responses=problem_responses(*BODY_ERRORS),
)
def rotate(backend: Backend, _: AdminOfAllClouds, body: WebhookAddress) -> Endpoint:
    """The previous secret also signs for a day."""
    return Endpoint(endpoint=backend.rotate_webhook(body.url))


@router.get("/deliveries", summary="List webhook deliveries, newest first")
def list_deliveries(
    backend: Backend, caller: Reader, query: Annotated[DeliveriesQuery, Query()]
) -> DeliveryList:
    """Including pending and failed ones."""
    deliveries = backend.deliveries(
        import_id=query.import_id, state=query.state, clouds=caller.clouds, limit=query.limit
    )
    return DeliveryList(items=deliveries)


@router.post(
    "/deliveries/{delivery_id}/resend",
    status_code=S.ACCEPTED,
    summary="Send a delivery again",
    responses=problem_responses(S.NOT_FOUND),
)
def resend(backend: Backend, caller: Submitter, delivery_id: IdText) -> Delivery:
    """With the same `webhook-id`; the attempts start again."""
    delivery = backend.ledger.outbox.get(delivery_id)
    try:
        caller.ensure_visible(backend.get(delivery.import_id))
    except NotFound as exc:
        raise NotFound("delivery", delivery_id) from exc
    return backend.resend(delivery_id)
