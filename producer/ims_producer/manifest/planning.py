"""Decides what applying a manifest does with each image. Pure functions without I/O."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from ims_config.import_request import ABOUT_THE_IMPORT, ImportRequest
from ims_config.records import ImportRecord, ImportResult, State
from ims_config.worker_reports import FoundImage

_USABLE: Final = frozenset({"queued", "saving", "active"})


class Step(StrEnum):
    """What `apply` does with an item."""

    NEW = "new"
    """Import it."""
    CHANGED = "changed"
    """The request differs from the last import: import it beside the old image."""
    AGAIN = "again"
    """Its import failed or was canceled, or its image no longer exists: import it again."""
    UNCHANGED = "unchanged"
    """Nothing: its import is open or has succeeded."""
    CONFLICT = "conflict"
    """Nothing: another import or image has that name, so a person must decide."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One request of a manifest and its step."""

    request: ImportRequest
    step: Step
    why: str = ""
    record: ImportRecord | None = None
    """The import of this request, if there is one."""
    result: ImportResult | None = None
    """That import after a wait."""
    key: str | None = None
    """The idempotency key of the import to submit; None if none is submitted or one is retried."""

    @property
    def import_id(self) -> str | None:
        return self.record.id if self.record else None


def plan(
    manifest: str,
    requests: Iterable[ImportRequest],
    records: Iterable[ImportRecord],
    images: Mapping[str | None, Sequence[FoundImage]],
) -> list[Item]:
    """Compare requests with the ledger and with the images of the clouds that are in `images`."""
    imports: defaultdict[tuple[str | None, str], list[ImportRecord]] = defaultdict(list)
    for record in sorted(records, key=lambda record: record.created_at):
        imports[record.cloud, record.name].append(record)
    return [
        _item(manifest, request, imports[request.cloud, request.name], images.get(request.cloud))
        for request in requests
    ]


def _item(
    manifest: str,
    request: ImportRequest,
    records: Sequence[ImportRecord],
    images: Sequence[FoundImage] | None,
) -> Item:
    fields = _image_fields(request.as_message())
    same = [record for record in records if _image_fields(record.request) == fields]
    key = _key(manifest, fields, len(same) + 1)
    if same:
        return _imported_before(request, same[-1], images, key)
    if why := _open_import(records) or _foreign_image(request, records, images or ()):
        return Item(request=request, step=Step.CONFLICT, why=why)
    succeeded = [record for record in records if record.state is State.SUCCEEDED]
    if succeeded:
        why = _difference(succeeded[-1], fields)
        return Item(request=request, step=Step.CHANGED, why=why, key=key)
    return Item(request=request, step=Step.NEW, key=key)


def _imported_before(
    request: ImportRequest, record: ImportRecord, images: Sequence[FoundImage] | None, key: str
) -> Item:
    if record.state in (State.FAILED, State.CANCELED):
        why = f"its import {record.state}: {record.reason or 'no reason recorded'}"
        return Item(request=request, step=Step.AGAIN, why=why, record=record)
    if record.state is State.SUCCEEDED and images is not None:
        usable = {image.id for image in images if image.status in _USABLE}
        if record.image_id not in usable:
            why = f"its image {record.image_id} no longer exists"
            return Item(request=request, step=Step.AGAIN, why=why, key=key)
    why = "" if record.state is State.SUCCEEDED else f"its import is {record.state}"
    return Item(request=request, step=Step.UNCHANGED, why=why, record=record)


def _open_import(records: Sequence[ImportRecord]) -> str | None:
    """The conflict with an open import of a different request with the same name."""
    for record in reversed(records):
        if not record.state.terminal:
            return f"import {record.id} of a different request with this name is {record.state}"
    return None


def _foreign_image(
    request: ImportRequest, records: Sequence[ImportRecord], images: Sequence[FoundImage]
) -> str | None:
    """The conflict with an image of the same name that no recorded import created."""
    ids = {record.id for record in records}
    for image in images:
        if image.name == request.name and image.status in _USABLE and image.import_id not in ids:
            return f"image {image.id} has this name and was not imported from this ledger"
    return None


def key_prefix(manifest: str) -> str:
    """What the idempotency keys of all imports of a manifest start with."""
    return f"manifest/{manifest}/"


def _image_fields(request: Mapping[str, object] | None) -> dict[str, object]:
    """The fields that decide which image is created; the priority, for example, does not."""
    fields = (request or {}).items()
    return {field: value for field, value in fields if field not in ABOUT_THE_IMPORT}


def _key(manifest: str, fields: Mapping[str, object], number: int) -> str:
    """Equal for equal plans, so that two people who apply at the same time get one import."""
    text = json.dumps(fields, sort_keys=True)
    return f"{key_prefix(manifest)}{hashlib.sha256(text.encode()).hexdigest()[:32]}/{number}"


def _difference(record: ImportRecord, fields: Mapping[str, object]) -> str:
    old = _image_fields(record.request)
    names = [name for name in sorted({*fields, *old}) if fields.get(name) != old.get(name)]
    verb = "differs" if len(names) == 1 else "differ"
    return f"{', '.join(names)} {verb} from import {record.id}"


def dropped(
    manifest: str, requests: Iterable[ImportRequest], records: Iterable[ImportRecord]
) -> list[ImportRecord]:
    """Succeeded imports of a manifest that it no longer lists."""
    listed = [_image_fields(request.as_message()) for request in requests]
    prefix = key_prefix(manifest)
    return [
        record
        for record in records
        if (record.key or "").startswith(prefix)
        and record.state is State.SUCCEEDED
        and _image_fields(record.request) not in listed
    ]
