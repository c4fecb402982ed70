"""Which import made an image, by its tag and its source. No I/O."""

from collections.abc import Sequence

from ims_config.names import IMPORT_ID_TAG
from ims_config.records import ImageFacts, ImportRecord


def import_id_of(image: ImageFacts) -> str | None:
    """The import that made an image, by its tag, written `key=value` or `key.value`."""
    for tag in image.tags:
        for sign in "=.":
            if tag.startswith(f"{IMPORT_ID_TAG}{sign}"):
                return tag[len(IMPORT_ID_TAG) + 1 :]
    return None


def own_images(record: ImportRecord, images: Sequence[ImageFacts]) -> list[ImageFacts]:
    """Images that this import may have created."""
    tagged = [image for image in images if import_id_of(image) == record.id]
    return tagged or same_source(record, images)


def same_source(record: ImportRecord, images: Sequence[ImageFacts]) -> list[ImageFacts]:
    """Images made from our file (`__data_origin`), except those with the tag of another import.

    The file of an adopted import is unknown.
    """
    if record.image_url is None:
        return []
    origin = f"file,{record.image_url}"
    return [
        image
        for image in images
        if image.data_origin == origin and import_id_of(image) in (None, record.id)
    ]
