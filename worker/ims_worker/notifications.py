"""The task that tells a receiver what became of an import, and the pauses between its attempts."""

import logging
import random
from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from celery import Celery

from ims_config import names
from ims_config.webhooks import secrets_of
from ims_ledger.deliveries import Claim, Letter
from ims_ledger.errors import LedgerUnavailable
from ims_worker.adapters.webhooks import NotTaken, Taken, send
from ims_worker.bootstrap import Parts, parts

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


def send_due(app: Celery, work: Parts) -> None:
    """Queue what is to be delivered now."""
    for claim in work.ledger.deliveries.claim(lease=LEASE):
        app.send_task(names.DELIVER_WEBHOOK, [*claim])


def deliver_webhook(delivery_id: str, generation: int) -> None:
    """Deliver once; when to try again is written to the ledger, and the scheduler asks for it."""
    work = parts()
    letter = work.ledger.deliveries.begin(Claim(delivery_id, generation), lease=LEASE)
    if letter is None:
        return
    key = work.settings.secret_key
    if key is None:
        outcome: Taken | NotTaken = NotTaken(
            error="the worker has no IMS_IMPORT_SECRET_KEY to sign with"
        )
    else:
        generations = work.ledger.webhooks.generations(letter.endpoint)
        secrets = secrets_of(key.get_secret_value(), letter.endpoint, generations)
        outcome = send(
            letter.url, delivery_id, letter.body, secrets=secrets, allowed=work.allowed_receivers
        )
    _note(work, letter, outcome)


def _note(work: Parts, letter: Letter, outcome: Taken | NotTaken) -> None:
    # The query of an address may be somebody's secret.
    about = {"delivery": letter.claim.id, "event": letter.event, "endpoint": letter.endpoint}
    match outcome:
        case Taken(http_status=status):
            work.ledger.deliveries.delivered(letter, status)
            logger.info("webhook delivered", extra=about)
        case NotTaken(error=error, http_status=status):
            pause = pause_after(letter.attempts + 1, outcome, work.settings.webhook_pauses)
            if pause is None:
                work.ledger.deliveries.given_up(letter, status, error)
                logger.error("webhook given up", extra=about | {"why": error})
            else:
                # Jitter: who was away should not be met by everything at once.
                pause *= random.uniform(1, LONGEST_JITTER)  # noqa: S311  # no cryptography
                work.ledger.deliveries.again(letter, status, error, after=pause)
                logger.warning("webhook not taken", extra=about | {"why": error})


def pause_after(attempts: int, outcome: NotTaken, pauses: Sequence[timedelta]) -> timedelta | None:
    """How long to wait after attempt number `attempts` (from 1); None when it was the last one."""
    if outcome.final or attempts > len(pauses):
        return None
    return max(pauses[attempts - 1], outcome.retry_after or timedelta(0))
