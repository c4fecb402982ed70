"""The task that tells a receiver what became of an import, and the pauses between its attempts."""

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
from ims_worker.adapters.webhook_sender import Delivered, Rejected, send
from ims_worker.bootstrap import Services

logger = logging.getLogger(__name__)

# Longer than an attempt can take, with the look-up of the name.
LEASE: Final = timedelta(seconds=120)
LONGEST_JITTER: Final = 1.2


def register(app: Celery) -> None:
    """Add the task to a worker's app."""
    # Several for each import: they would push the imports off Flower's pages.
    app.task(name=names.DELIVER_WEBHOOK, send_events=False, throws=(LedgerUnavailable,))(
        deliver_webhook
    )


def send_due(app: Celery, services: Services) -> None:
    """Queue what is to be delivered now."""
    for claim in services.ledger.outbox.claim(lease=LEASE):
        app.send_task(names.DELIVER_WEBHOOK, [*claim])


def deliver_webhook(delivery_id: str, generation: int) -> None:
    """Deliver once; when to try again is written to the ledger, and the scheduler asks for it."""
    services = bootstrap.services()
    letter = services.ledger.outbox.begin(Claim(delivery_id, generation), lease=LEASE)
    if letter is None:
        return
    keys = services.settings.secret_keys
    if not keys:
        outcome: Delivered | Rejected = Rejected(
            error="the worker has no IMS_IMPORT_SECRET_KEY to sign with"
        )
    else:
        generations = services.ledger.webhook_endpoints.generations(letter.endpoint)
        secrets = secrets_of(keys, letter.endpoint, generations)
        outcome = send(
            letter.url,
            delivery_id,
            letter.body,
            secrets=secrets,
            allowed=services.allowed_receivers,
        )
    _note(services, letter, outcome)


def _note(services: Services, letter: OutgoingMessage, outcome: Delivered | Rejected) -> None:
    # The query of an address may be somebody's secret.
    about = {"delivery": letter.claim.id, "event": letter.event, "endpoint": letter.endpoint}
    match outcome:
        case Delivered(http_status=status):
            services.ledger.outbox.delivered(letter, status)
            logger.info("webhook delivered", extra=about)
        case Rejected(error=error, http_status=status):
            pause = pause_after(letter.attempts + 1, outcome, services.settings.webhook_pauses_s)
            if pause is None:
                services.ledger.outbox.given_up(letter, status, error)
                logger.error("webhook given up", extra=about | {"why": error})
            else:
                # Jitter: who was away should not be met by everything at once.
                pause *= random.uniform(1, LONGEST_JITTER)  # noqa: S311  # no cryptography
                services.ledger.outbox.again(letter, status, error, after=pause)
                logger.warning("webhook not taken", extra=about | {"why": error})


def pause_after(attempts: int, outcome: Rejected, pauses: Sequence[timedelta]) -> timedelta | None:
    """How long to wait after attempt number `attempts` (from 1); None when it was the last one."""
    if outcome.final or attempts > len(pauses):
        return None
    return max(pauses[attempts - 1], outcome.retry_after or timedelta(0))
