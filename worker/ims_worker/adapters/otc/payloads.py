"""The HTTP path and JSON body of a create in IMS."""

from collections.abc import Mapping
from typing import Final

from ims_config.import_request import ABOUT_THE_IMPORT, DataImage, ImportRequest, Kind
from ims_config.names import IMPORT_ID_TAG

PATHS: Final[Mapping[Kind, str]] = {
    Kind.SYSTEM: "/v2/cloudimages/action",
    Kind.ISO: "/v2/cloudimages/action",
    Kind.DATA: "/v1/cloudimages/dataimages/action",
    Kind.QUICK: "/v2/cloudimages/quickimport/action",
}

# Fields that IMS does not know or names differently: IMS's own `tags` are `key.value` strings,
# which exclude `image_tags`; the API dropped `is_config_init` in 2022.
_NOT_SENT: Final = ABOUT_THE_IMPORT | {"kind", "cloud", "tags", "is_config_init", "data_images"}


def to_wire(request: ImportRequest, *, import_id: str) -> tuple[str, dict[str, object]]:
    """Path and JSON body, with the tag that identifies the image of this import."""
    body: dict[str, object] = request.model_dump(
        mode="json", exclude=set(_NOT_SENT), exclude_none=True
    )
    if request.kind is Kind.ISO:
        body["type"] = "IsoImage"
    if request.data_images:
        body["data_images"] = [_data_image(disk) for disk in request.data_images]
    body["image_tags"] = _tags(request.tags, import_id)
    return PATHS[request.kind], body


def _data_image(disk: DataImage) -> dict[str, object]:
    # Without the import id: the search by tag must find only the system image.
    body: dict[str, object] = disk.model_dump(mode="json", exclude={"tags"}, exclude_none=True)
    if disk.tags:
        body["image_tags"] = [{"key": key, "value": value} for key, value in disk.tags.items()]
    return body


def _tags(tags: Mapping[str, str], import_id: str) -> list[dict[str, str]]:
    return [
        {"key": key, "value": value} for key, value in {**tags, IMPORT_ID_TAG: import_id}.items()
    ]
