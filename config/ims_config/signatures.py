"""The Celery messages of an import: a chain of submit and poll, the poll under the import's id."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Self

from celery import Celery, chain
from celery.canvas import Signature

from ims_config.names import POLL_IMPORT, POLL_QUEUE, SUBMIT_IMPORT, SUBMIT_QUEUE
from ims_config.records import ImportRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportRef:
    """The argument of a message: the import's id, and what Flower shows about it.

    `generation` numbers the messages of one import; a message of an older one ends at once.
    """

    id: str
    name: str = ""
    image_url: str = ""
    generation: int | None = None

    @classmethod
    def parse(cls, raw: Mapping[str, object] | str) -> Self:
        """Read the argument of a message: an object, or only the id."""
        if isinstance(raw, str):
            return cls(id=raw)
        generation = raw.get("generation")
        return cls(
            id=str(raw["id"]),
            name=str(raw.get("name", "")),
            image_url=str(raw.get("image_url", "")),
            generation=generation if isinstance(generation, int) else None,
        )

    def __json__(self) -> dict[str, object]:
        """Called by kombu's JSON encoder."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def __repr__(self) -> str:
        """As Celery's events, and with them Flower, show it."""
        return f"{self.name} from {self.image_url}" if self.image_url else self.name


def ref_to(record: ImportRecord, generation: int | None = None) -> ImportRef:
    url = record.image_url or ""
    return ImportRef(id=record.id, name=record.name, image_url=url, generation=generation)


def import_flow(app: Celery, record: ImportRecord) -> Signature:
    """The chain that runs an import: `submit_import | poll_import`."""
    ref = ref_to(record)
    return chain(submit_signature(app, ref), _poll(app, ref), app=app)


def submit_signature(app: Celery, ref: ImportRef) -> Signature:
    return app.signature(SUBMIT_IMPORT, args=(ref,), queue=SUBMIT_QUEUE, argsrepr=repr(ref))


def poll_signature(app: Celery, ref: ImportRef) -> Signature:
    return _poll(app, ref).clone(args=(ref,))


def _poll(app: Celery, ref: ImportRef) -> Signature:
    # Without arguments: in a chain the result of the submit becomes the argument.
    return app.signature(POLL_IMPORT, task_id=ref.id, queue=POLL_QUEUE, argsrepr=repr(ref))
