"""News of objects in buckets, as OBS sends them through SMN, and MinIO and Ceph by themselves."""

import json
import logging
from collections.abc import Iterator
from http import HTTPStatus
from typing import Annotated
from urllib.parse import unquote_plus

from fastapi import APIRouter, Depends, Request
from kombu.exceptions import OperationalError
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from redis import RedisError

from ims_config.records import Scope
from ims_config.settings import ApiSettings
from ims_producer.api.auth import client_of, key_documented, not_known, who_may
from ims_producer.api.problems import WITH_BODY, Refusal, documented
from ims_producer.api.smn import NotFromSmn, SmnAway, SmnMessage, confirm, verify

logger = logging.getLogger(__name__)

S = HTTPStatus
router = APIRouter(prefix="/v1", tags=["events"])


class S3Bucket(BaseModel):
    model_config = ConfigDict(extra="allow")
    name: str


class S3Object(BaseModel):
    model_config = ConfigDict(extra="allow")
    key: str


class S3Place(BaseModel):
    model_config = ConfigDict(extra="allow")
    bucket: S3Bucket
    object: S3Object


class S3Record(BaseModel):
    """One thing that happened to an object."""

    model_config = ConfigDict(extra="allow", populate_by_name=True)

    event_name: str = Field(alias="eventName", examples=["s3:ObjectCreated:Put"])
    s3: S3Place


class S3Event(BaseModel):
    """What S3 and its relatives send."""

    model_config = ConfigDict(extra="allow")

    records: list[S3Record] = Field(alias="Records")


class EventReceipt(BaseModel):
    """What came of it."""

    objects: int = Field(description="Objects that a worker looks at now.")
    confirmed: bool = Field(description="Whether a subscription was confirmed.")


@router.post(
    "/events/obs",
    status_code=S.ACCEPTED,
    summary="Tell that objects have changed",
    responses=documented(*WITH_BODY),
    # Or none: a message of SMN brings its signature instead.
    openapi_extra={"security": [{}]},
)
def take_event(
    request: Request,
    body: SmnMessage | S3Event,
    _: Annotated[object, Depends(key_documented)],
) -> EventReceipt:
    """A message of SMN needs no key, but its signature and a topic of `SMN_TOPICS`; anything else
    needs a key with the scope submit. An event is a reason to look: what is imported, watch rules
    and the bucket itself decide."""
    if isinstance(body, SmnMessage):
        return _take_message(request, body)
    who_may(request, Scope.SUBMIT)
    return EventReceipt(objects=_look(request, body), confirmed=False)


def _take_message(request: Request, message: SmnMessage) -> EventReceipt:
    settings: ApiSettings = request.app.state.settings
    try:
        verify(message, settings)
        if message.type == "SubscriptionConfirmation":
            confirm(message, settings)
            logger.info("subscription confirmed", extra={"topic": message.topic_urn})
            return EventReceipt(objects=0, confirmed=True)
    except NotFromSmn as exc:
        # Its signature is what a key is elsewhere.
        raise not_known(f"not a message of SMN for us: {exc}") from exc
    except SmnAway as exc:
        raise Refusal(S.SERVICE_UNAVAILABLE, str(exc), headers={"Retry-After": "30"}) from exc
    if message.type != "Notification":
        logger.warning("SMN ended a subscription", extra={"topic": message.topic_urn})
        return EventReceipt(objects=0, confirmed=False)
    try:
        event = S3Event.model_validate(json.loads(message.message))
    except (ValidationError, ValueError):
        # A test message, or somebody's words: signed all the same.
        return EventReceipt(objects=0, confirmed=False)
    return EventReceipt(objects=_look(request, event), confirmed=False)


def _look(request: Request, event: S3Event) -> int:
    objects = set(_created(event))
    client = client_of(request)
    try:
        for bucket, key in sorted(objects):
            # S3 and MinIO write keys as in a form, others as they are; there can be only one.
            for meant in {key, unquote_plus(key)}:
                client.look_at_object(bucket, meant)
    except (OperationalError, RedisError, OSError) as exc:
        raise Refusal(
            S.SERVICE_UNAVAILABLE, "the queue cannot be reached", headers={"Retry-After": "30"}
        ) from exc
    return len(objects)


def _created(event: S3Event) -> Iterator[tuple[str, str]]:
    for record in event.records:
        if record.event_name.removeprefix("s3:").startswith("ObjectCreated"):
            yield record.s3.bucket.name, record.s3.object.key
