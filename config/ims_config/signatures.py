"""The visible flow of an import: Celery's own chain, submit then poll, under the import's id."""

from typing import Any, NotRequired, TypedDict

from celery import Celery, chain
from celery.canvas import Signature

from ims_config.names import POLL_IMPORT, POLL_QUEUE, SUBMIT_IMPORT, SUBMIT_QUEUE
from ims_config.records import ImportRecord


class ImportRef(TypedDict):
    """What a message says: which import, and for the reader of Flower what it is about.

    `generation` numbers the messages of one import; a message of an older one ends at once.
    """

    id: str
    name: str
    image_url: str
    generation: NotRequired[int]


def ref_to(record: ImportRecord, generation: int | None = None) -> ImportRef:
    """The ticket of an import, as its messages carry it."""
    ticket = ImportRef(id=record.id, name=record.name, image_url=record.image_url)
    if generation is not None:
        ticket["generation"] = generation
    return ticket


def import_flow(app: Celery, record: ImportRecord) -> Signature:
    """The chain that runs an import: `submit_import | poll_import`, the poll's id the import's."""
    return chain(submit_signature(app, ref_to(record)), poll_signature(app, record.id), app=app)


def submit_signature(app: Celery, ticket: ImportRef) -> Signature:
    return app.signature(SUBMIT_IMPORT, args=(ticket,), queue=SUBMIT_QUEUE)


def poll_signature(app: Celery, import_id: str, args: tuple[Any, ...] = ()) -> Signature:
    return app.signature(POLL_IMPORT, args=args, task_id=import_id, queue=POLL_QUEUE)
