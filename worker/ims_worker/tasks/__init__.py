"""The worker's Celery tasks; each translates between Celery and one step of the import."""

from celery import Celery

from ims_worker.tasks import bucket_polling, cloud_requests, housekeeping, imports, webhooks

# Stored results of the previous version name the exceptions here.
from ims_worker.tasks.results import ImportFailed as ImportFailed
from ims_worker.tasks.results import NotYet as NotYet


def register(app: Celery) -> None:
    """Add all tasks to a worker's app."""
    for module in (imports, housekeeping, cloud_requests, bucket_polling, webhooks):
        module.register(app)
