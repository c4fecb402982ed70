"""The sweep: rebuilds the due schedule from the ledger and deletes old imports."""

import logging
from datetime import UTC, datetime
from typing import Final

from celery import Celery

from ims_config import names
from ims_worker import bootstrap
from ims_worker.bootstrap import Services

logger = logging.getLogger(__name__)

SWEEP_PAGE: Final = 500


def register(app: Celery) -> None:
    # Without events: a sweep every few seconds would push the imports off Flower's pages.
    app.task(name=names.SWEEP, send_events=False)(sweep)


def sweep() -> int:
    """Restore every open import that the schedule has lost; returns how many."""
    services = bootstrap.services()
    stale = datetime.now(UTC) - services.settings.stale_after_s
    restored, after = 0, None
    while page := services.ledger.imports.unreported(limit=SWEEP_PAGE, after=after):
        # The first message of a younger import is still on its way.
        old = [record.id for record in page if (record.updated_at or record.created_at) < stale]
        restored += services.due.restore(set(old) - services.due.scheduled(old))
        after = page[-1].id
    if restored:
        logger.info("schedule entries restored", extra={"count": restored})
    _prune(services)
    return restored


def _prune(services: Services) -> None:
    if services.settings.retention_days is None:
        return
    before = datetime.now(UTC) - services.settings.retention_days
    if pruned := services.ledger.imports.prune(before=before):
        logger.info("old imports deleted", extra={"count": pruned})
