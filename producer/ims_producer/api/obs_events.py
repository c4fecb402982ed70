"""Receives object events: from OBS through SMN (signed), from MinIO and Ceph directly."""

import logging
from collections.abc import Iterator
from http import HTTPStatus
from typing import Annotated, Final
from urllib.parse import unquote_plus

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ims_config.records import Scope
from ims_config.settings import ApiSettings
from ims_producer.api.auth import Backend, api_key_scheme, authorize
from ims_producer.api.problems import BODY_ERRORS, ProblemError, problem_responses
from ims_producer.api.smn import NotFromSmn, SmnMessage, SmnUnavailable, confirm, verify
from ims_producer.http_contract import ProblemCode

logger = logging.getLogger(__name__)

S = HTTPStatus
router = APIRouter(prefix="/v1", tags=["events"])


class _Open(BaseModel):
    model_config = ConfigDict(extra="allow")


class S3Bucket(_Open):
    name: str


class S3Object(_Open):
    key: str


class S3Place(_Open):
    bucket: S3Bucket
    object: S3Object


class S3Record(_Open):
    """One event of an object."""

    event_name: str = Field(alias="eventName", examples=["s3:ObjectCreated:Put"])
    s3: S3Place


class S3Event(_Open):
    """The body that S3 and compatible storages send."""

    records: list[S3Record] = Field(alias="Records")


class EventReceipt(BaseModel):
    """The effect of an event."""

    objects: int = Field(description="Objects that a worker checks now.")
    confirmed: bool = Field(description="Whether a subscription was confirmed.")


_NO_EFFECT: Final = EventReceipt(objects=0, confirmed=False)


@router.post(
    "/events/obs",
    status_code=S.ACCEPTED,
    summary="Report that objects have changed",
    responses=problem_responses(*BODY_ERRORS),
    # An alternative to a key: a message of SMN carries a signature.
    openapi_extra={"security": [{}]},
)
def receive_event(
    request: Request,
    backend: Backend,
    body: SmnMessage | S3Event,
    _: Annotated[object, Depends(api_key_scheme)],
) -> EventReceipt:
    """A message of SMN needs no key, but a valid signature and a topic of `SMN_TOPICS`; other
    events need a key with the scope submit. An event only triggers a check: the bucket rules and
    the bucket itself decide what is imported."""
    if isinstance(body, SmnMessage):
        return _receive_message(request.app.state.settings, backend, body)
    authorize(request, Scope.SUBMIT)
    return _notify(backend, body)


def _receive_message(settings: ApiSettings, backend: Backend, message: SmnMessage) -> EventReceipt:
    try:
        verify(message, settings)
        if message.type == "SubscriptionConfirmation":
            confirm(message, settings)
            logger.info("subscription confirmed", extra={"topic": message.topic_urn})
            return EventReceipt(objects=0, confirmed=True)
    except NotFromSmn as exc:
        # The signature takes the place of a key.
        reason = f"not a message of SMN for this installation: {exc}"
        raise ProblemError(ProblemCode.UNAUTHENTICATED, reason) from exc
    except SmnUnavailable as exc:
        raise ProblemError(ProblemCode.SMN_UNAVAILABLE, str(exc)) from exc
    if message.type != "Notification":
        logger.warning("SMN ended a subscription", extra={"topic": message.topic_urn})
        return _NO_EFFECT
    try:
        event = S3Event.model_validate_json(message.message)
    except ValidationError:
        # A test message or free text.
        return _NO_EFFECT
    return _notify(backend, event)


def _notify(backend: Backend, event: S3Event) -> EventReceipt:
    objects = set(_created(event))
    for bucket, key in sorted(objects):
        # S3 and MinIO encode keys as in a form, others do not; only one of both exists.
        for candidate in {key, unquote_plus(key)}:
            backend.notify_object(bucket, candidate)
    return EventReceipt(objects=len(objects), confirmed=False)


def _created(event: S3Event) -> Iterator[tuple[str, str]]:
    for record in event.records:
        if record.event_name.removeprefix("s3:").startswith("ObjectCreated"):
            yield record.s3.bucket.name, record.s3.object.key
