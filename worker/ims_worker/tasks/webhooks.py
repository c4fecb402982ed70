"""The task that delivers a webhook once and records the outcome or the next attempt."""

import logging
import random
from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from celery import Celery

from ims_config import names
from ims_config.webhooks import secrets_of
from ims_ledger.errors import LedgerUnavailable
from ims_ledger.outbox import Claim, OutgoingMessage
from ims_worker import bootstrap
from ims_worker.adapters.webhook_sender import DELIVERY_LEASE, Delivered, Rejected, send
from ims_worker.bootstrap import Services

logger = logging.getLogger(__name__)

# Spreads the retries to a receiver that was down.
LONGEST_JITTER: Final = 1.2


def register(app: Celery) -> None:
    # Without events: several deliveries per import would push the imports off Flower's pages.
    app.task(name=names.DELIVER_WEBHOOK, send_events=False, throws=(LedgerUnavailable,))(
        deliver_webhook
    )


def deliver_webhook(delivery_id: str, generation: int) -> None:
    """Deliver once; the scheduler sends the next attempt when the ledger says that it is due."""
    services = bootstrap.services()
    message = services.ledger.outbox.begin(Claim(delivery_id, generation), lease=DELIVERY_LEASE)
    if message is not None:
        _record(services, message, _send(services, message))


def _send(services: Services, message: OutgoingMessage) -> Delivered | Rejected:
    keys = services.settings.secret_keys
    if not keys:
        return Rejected(error="the worker has no IMS_IMPORT_SECRET_KEY to sign with")
    generations = services.ledger.webhook_endpoints.generations(message.endpoint)
    return send(
        message.url,
        message.claim.id,
        message.body,
        secrets=secrets_of(keys, message.endpoint, generations),
        allowed=services.allowed_receivers,
    )


def _record(services: Services, message: OutgoingMessage, outcome: Delivered | Rejected) -> None:
    # Without the URL: its query may contain a secret.
    about = {"delivery": message.claim.id, "event": message.event, "endpoint": message.endpoint}
    match outcome:
        case Delivered(http_status=status):
            services.ledger.outbox.delivered(message, status)
            logger.info("webhook delivered", extra=about)
        case Rejected(error=error, http_status=status):
            pause = pause_after(message.attempts + 1, outcome, services.settings.webhook_pauses_s)
            if pause is None:
                services.ledger.outbox.given_up(message, status, error)
                logger.error("webhook given up", extra=about | {"reason": error})
            else:
                pause *= random.uniform(1, LONGEST_JITTER)  # noqa: S311  # no cryptography
                services.ledger.outbox.again(message, status, error, after=pause)
                logger.warning("webhook rejected", extra=about | {"reason": error})


def pause_after(attempts: int, outcome: Rejected, pauses: Sequence[timedelta]) -> timedelta | None:
    """The pause after attempt number `attempts` (from 1); None after the last one."""
    if outcome.final or attempts > len(pauses):
        return None
    return max(pauses[attempts - 1], outcome.retry_after or timedelta(0))
