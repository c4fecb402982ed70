"""Finds images with our tag that no import needs. No I/O."""

from collections.abc import Iterable, Iterator, Mapping

from ims_config.records import ImageFacts, ImportRecord, State
from ims_config.worker_reports import OrphanedImage
from ims_worker.ownership import import_id_of


def orphans(
    images: Iterable[ImageFacts], records: Mapping[str, ImportRecord]
) -> Iterator[OrphanedImage]:
    """The images of a project that have our tag and that no import needs."""
    for image in images:
        import_id = import_id_of(image)
        if import_id is None:
            continue
        record = records.get(import_id)
        why = _why_not_needed(image, record)
        if why is not None:
            yield OrphanedImage(
                image_id=image.id,
                name=image.name or "",
                status=image.status or "unknown",
                import_id=import_id,
                why=why,
                known=record is not None,
            )


def _why_not_needed(image: ImageFacts, record: ImportRecord | None) -> str | None:
    if record is None:
        # Another installation, with a ledger of its own, may use the same project.
        return "this ledger knows no such import; it may be another installation's"
    if not record.state.terminal:
        return None
    if record.image_id == image.id:
        if record.state is State.SUCCEEDED or record.cancel == "leave":
            return None
        return f"its import {record.state}"
    if record.state is State.SUCCEEDED:
        return f"its import has another image, {record.image_id}"
    return f"its import {record.state}"


def missing(images: Iterable[ImageFacts], records: Iterable[ImportRecord]) -> list[str]:
    """Ids of the imports that SUCCEEDED and whose image no longer exists."""
    there = {image.id for image in images}
    return [
        record.id
        for record in records
        if record.state is State.SUCCEEDED and record.image_id not in there
    ]
