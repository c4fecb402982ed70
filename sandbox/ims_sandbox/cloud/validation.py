"""Validates create requests as strictly as the IMS API reference allows."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from ims_sandbox.cloud.responses import ims_error

_COMMON: Final = frozenset(
    {"name", "description", "image_url", "min_disk", "tags", "image_tags", "enterprise_project_id"}
)
_NAME: Final = re.compile(r"[\w\-. ]{1,128}")
_TAG_KEY: Final = re.compile(r"[A-Za-z0-9_\-]{1,36}")
_TAG_VALUE: Final = re.compile(r"[A-Za-z0-9_\-]{0,43}")
MAX_DESCRIPTION: Final = 1024
MAX_TAGS: Final = 10
MAX_DATA_IMAGES: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One URL that creates an image from a file."""

    path: str
    job_type: str
    fields: frozenset[str]
    max_disk_gib: int = 1024


SYSTEM: Final = Variant(
    path="/v2/cloudimages/action",
    job_type="imsImportImageJob",
    fields=_COMMON
    | {
        "os_type", "os_version", "is_config", "cmk_id", "type", "min_ram", "max_ram",
        "data_images", "is_quick_import", "hw_firmware_type", "architecture",
    },
)  # fmt: skip
DATA: Final = Variant(
    path="/v1/cloudimages/dataimages/action",
    job_type="imsImportDataImageJob",
    fields=_COMMON | {"os_type", "cmk_id"},
    max_disk_gib=2048,
)
QUICK: Final = Variant(
    path="/v2/cloudimages/quickimport/action",
    job_type="imsImportImageJob",
    fields=_COMMON | {"type", "os_version", "os_type", "architecture", "hw_firmware_type"},
)


def check_create(variant: Variant, body: object) -> dict[str, Any]:
    """The body if IMS accepts it; otherwise raises a Refusal with IMS's code."""
    if not isinstance(body, dict) or not body:
        raise ims_error("IMG.0007", "The request body is empty or invalid.")
    if unknown := sorted(set(body) - variant.fields):
        # It is unknown whether OTC ignores or refuses unknown fields, so clients must not send any.
        raise ims_error("IMG.0001", f"Invalid request body: unknown {', '.join(unknown)}.")
    data_disk = variant is DATA or body.get("type") == "DataImage"
    _check_name(body.get("name"))
    _check_description(body.get("description"))
    _check_url(body.get("image_url"))
    _check_min_disk(body.get("min_disk"), 2048 if data_disk else variant.max_disk_gib)
    _check_tags(body)
    _check_kind(variant, body, data_disk=data_disk)
    for disk in _data_images(body):
        _check_url(disk.get("image_url"))
        _check_min_disk(disk.get("min_disk"), 2048)
    return body


def _check_name(name: object) -> None:
    if not isinstance(name, str) or not name:
        raise ims_error("IMG.0013", "The image name is missing.")
    if len(name) > 128:  # noqa: PLR2004  # the limit of the reference
        raise ims_error("IMG.0002", "The image name is longer than 128 characters.")
    if not _NAME.fullmatch(name) or name != name.strip(" "):
        raise ims_error("IMG.0003", "The image name is in an incorrect format.")


def _check_description(text: object) -> None:
    if text is None:
        return
    if not isinstance(text, str) or re.search(r"[\r\n<>]", text):
        raise ims_error("IMG.0054", "The image description is in an incorrect format.")
    if len(text) > MAX_DESCRIPTION:
        raise ims_error("IMG.0004", "The image description is too long.")


def _check_url(url: object) -> None:
    text = url if isinstance(url, str) else ""
    bucket, _, key = text.partition(":")
    if not bucket or not key:
        raise ims_error("IMG.0017", "The image file address is in an incorrect format.")
    if re.search(r"\s", text):
        raise ims_error("IMG.0175", "The image file address must not contain spaces.")


def _check_min_disk(size: object, most: int) -> None:
    if not isinstance(size, int) or isinstance(size, bool) or not 1 <= size <= most:
        raise ims_error("IMG.0055", f"The disk size must be a number from 1 to {most}.")


def _check_tags(body: Mapping[str, Any]) -> None:
    if "tags" in body and "image_tags" in body:
        raise ims_error("IMG.0115", "Use either tags or image_tags.")
    pairs = tag_pairs(body)
    if len(pairs) > MAX_TAGS:
        raise ims_error("IMG.0116", "The number of tags exceeds the limit.")
    for key, value in pairs.items():
        if not _TAG_KEY.fullmatch(key) or not _TAG_VALUE.fullmatch(value):
            raise ims_error("IMG.0115", f"The tag {key} is invalid.")


def tag_pairs(body: Mapping[str, Any]) -> dict[str, str]:
    """Tags of both forms; `tags` are written `key.value`, `image_tags` are objects."""
    try:
        written = [str(tag).split(".", 1) for tag in body.get("tags", [])]
        objects = [(tag["key"], tag["value"]) for tag in body.get("image_tags", [])]
        return {str(key): str(value) for key, value in [*written, *objects]}
    except (TypeError, KeyError, ValueError) as exc:
        raise ims_error("IMG.0115", "The tags are invalid.") from exc


def _check_kind(variant: Variant, body: Mapping[str, Any], *, data_disk: bool) -> None:
    kind = body.get("type")
    allowed = {
        SYSTEM.path: {None, "ECS", "FusionCompute", "BMS", "Ironic", "IsoImage"},
        QUICK.path: {None, "ECS", "BMS", "DataImage"},
    }.get(variant.path, {None})
    if kind not in allowed:
        raise ims_error("IMG.0024", "The imagetype is invalid.")
    if kind == "IsoImage" and not body.get("os_version"):
        raise ims_error("IMG.0166", "The OS version of an ISO image is mandatory.")
    quick = variant is QUICK or body.get("is_quick_import")
    if quick and not data_disk and not body.get("os_version"):
        raise ims_error("IMG.0159", "A quick import needs os_version.")
    os_types = {None, "Linux", "Windows"} | (set() if data_disk else {"Other"})
    if body.get("os_type") not in os_types:
        raise ims_error("IMG.0122", "The OS type is invalid.")
    if body.get("architecture") == "arm" and body.get("hw_firmware_type") == "bios":
        raise ims_error("IMG.0141", "The boot mode of an ARM image must be uefi.")


def _data_images(body: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    disks = body.get("data_images") or []
    if not isinstance(disks, list) or len(disks) > MAX_DATA_IMAGES:
        raise ims_error("IMG.0001", "At most three data images are allowed.")
    urls = [body.get("image_url"), *(disk.get("image_url") for disk in disks)]
    if len(set(urls)) < len(urls):
        raise ims_error("IMG.0123", "The image file address occurs twice.")
    return disks
