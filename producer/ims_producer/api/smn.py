"""Verifies messages of the Simple Message Notification service and confirms subscriptions.

Source: SMN user guide, "HTTP/HTTPS Message Format" and "Message Signature Verification". The
service signs the topics of all its users, so the topic must also be a configured one.
"""

import base64
import binascii
from functools import lru_cache
from http import HTTPStatus
from typing import Final, Literal
from urllib.parse import urlsplit

import requests
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from pydantic import BaseModel, ConfigDict, Field

from ims_config.settings import PREFIX, ApiSettings

TIMEOUT_S: Final = (3.05, 10)
_LARGEST_CERTIFICATE: Final = 64 * 1024
_NOTIFICATION: Final = ("message", "message_id", "subject", "timestamp", "topic_urn", "type")
_SUBSCRIPTION: Final = ("message", "message_id", "subscribe_url", "timestamp", "topic_urn", "type")


class SmnMessage(BaseModel):
    """What SMN posts to a subscriber; `message` is text, and contains JSON if OBS wrote it."""

    model_config = ConfigDict(extra="allow")

    type: Literal["Notification", "SubscriptionConfirmation", "UnsubscribeConfirmation"]
    message_id: str
    topic_urn: str = Field(examples=["urn:smn:eu-de:0123456789abcdef:images"])
    message: str
    timestamp: str
    signature: str
    signing_cert_url: str
    subject: str | None = None
    subscribe_url: str | None = None


class NotFromSmn(Exception):
    """The message has no configured topic, or no valid signature of the service."""


class SmnUnavailable(Exception):
    """The certificate cannot be read, or the subscription cannot be confirmed: try again."""


def verify(message: SmnMessage, settings: ApiSettings) -> None:
    """Raises NotFromSmn, SmnUnavailable."""
    topics = settings.smn_topics
    if message.topic_urn not in topics:
        raise NotFromSmn(
            f"topic {message.topic_urn!r} is not one of {PREFIX}SMN_TOPICS"
            if topics
            else f"no topic is configured; name it in {PREFIX}SMN_TOPICS"
        )
    _check_address(message.signing_cert_url, settings, "signing_cert_url")
    certificate = _certificate(message.signing_cert_url)
    key, algorithm = certificate.public_key(), certificate.signature_hash_algorithm
    if not isinstance(key, RSAPublicKey) or algorithm is None:
        raise NotFromSmn("its certificate has no RSA key")
    try:
        signature = base64.b64decode(message.signature, validate=True)
        key.verify(signature, _signed_text(message), PKCS1v15(), algorithm)
    except (InvalidSignature, UnsupportedAlgorithm, binascii.Error, ValueError) as exc:
        raise NotFromSmn("its signature is invalid") from exc


def confirm(message: SmnMessage, settings: ApiSettings) -> None:
    """Confirm the subscription. Raises NotFromSmn, SmnUnavailable."""
    _check_address(message.subscribe_url or "", settings, "subscribe_url")
    _get(message.subscribe_url or "")


def _signed_text(message: SmnMessage) -> bytes:
    fields = _NOTIFICATION if message.type == "Notification" else _SUBSCRIPTION
    # SMN does not sign an empty subject.
    signed = [(name, getattr(message, name)) for name in fields if getattr(message, name)]
    return "".join(f"{name}\n{value}\n" for name, value in signed).encode("utf-8", "replace")


def _check_address(url: str, settings: ApiSettings, field: str) -> None:
    hosts = settings.smn_hosts
    try:
        parts = urlsplit(url)
        trusted = parts.scheme == "https" and parts.netloc in hosts
    except ValueError:
        trusted = False
    if not trusted:
        raise NotFromSmn(f"its {field} is not at one of {PREFIX}SMN_HOSTS")


# A region has one certificate for years. The limit keeps strangers from filling the memory.
@lru_cache(maxsize=8)
def _certificate(url: str) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(_get(url))
    except ValueError as exc:
        raise SmnUnavailable("signing_cert_url returns no certificate") from exc


def _get(url: str) -> bytes:
    try:
        with requests.get(url, timeout=TIMEOUT_S, allow_redirects=False, stream=True) as response:
            if response.status_code != HTTPStatus.OK:
                raise SmnUnavailable(f"{urlsplit(url).netloc} returned HTTP {response.status_code}")
            return response.raw.read(_LARGEST_CERTIFICATE, decode_content=True) or b""
    except (requests.RequestException, OSError) as exc:
        raise SmnUnavailable(
            f"{urlsplit(url).netloc} does not respond: {type(exc).__name__}"
        ) from exc
