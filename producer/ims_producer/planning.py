"""What applying a manifest would do, item by item: decisions without I/O."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from ims_config.import_request import ABOUT_THE_IMPORT, ImportRequest
from ims_config.records import ImportRecord, State

KEY_PREFIX: Final = "manifest/"
_THERE: Final = frozenset({"queued", "saving", "active"})
_ENDED_BADLY: Final = frozenset({State.FAILED, State.CANCELED})


class Step(StrEnum):
    """What becomes of an item."""

    NEW = "new"
    """It will be imported."""
    CHANGED = "changed"
    """It was imported from another request; the new one will be imported beside it."""
    AGAIN = "again"
    """Its import failed or was canceled, or its image is gone: once more."""
    UNCHANGED = "unchanged"
    """Its import is under way or has succeeded."""
    CONFLICT = "conflict"
    """Something else has that name; a person must decide."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """An image in a cloud, as a worker has seen it."""

    id: str
    name: str
    status: str
    import_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One request of a manifest and what becomes of it."""

    request: ImportRequest
    step: Step
    why: str = ""
    record: ImportRecord | None = None
    """The import it has, if it has one."""
    key: str | None = None
    """The idempotency key of the import to be asked for; None where none is, or one is retried."""

    @property
    def to_do(self) -> bool:
        return self.step in {Step.NEW, Step.CHANGED, Step.AGAIN}

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.request.name,
            "cloud": self.request.cloud,
            "step": str(self.step),
            "why": self.why or None,
            "import_id": self.record.id if self.record else None,
        }


Name = tuple[str | None, str]


def plan(
    manifest: str,
    requests: Iterable[ImportRequest],
    records: Iterable[ImportRecord],
    images: Mapping[str | None, Sequence[Found]],
) -> list[Item]:
    """Compare requests with the ledger and, for the clouds that were asked, with their images."""
    imports: defaultdict[Name, list[ImportRecord]] = defaultdict(list)
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
    images: Sequence[Found] | None,
) -> Item:
    same = [record for record in records if _image(record.request) == _image(request.as_message())]
    key = _key(manifest, request, len(same))
    if same:
        return _known(request, same[-1], images, key)
    busy = [record for record in records if not record.state.terminal]
    if busy:
        why = f"import {busy[-1].id} of another request with this name is {busy[-1].state}"
        return Item(request=request, step=Step.CONFLICT, why=why)
    ours = {record.id for record in records}
    foreign = [
        image
        for image in images or ()
        if image.name == request.name and image.status in _THERE and image.import_id not in ours
    ]
    if foreign:
        why = f"image {foreign[0].id} of this name is there and not from here"
        return Item(request=request, step=Step.CONFLICT, why=why)
    done = [record for record in records if record.state is State.SUCCEEDED]
    if done:
        why = _difference(done[-1], request)
        return Item(request=request, step=Step.CHANGED, why=why, key=key)
    return Item(request=request, step=Step.NEW, key=key)


def _known(
    request: ImportRequest, record: ImportRecord, images: Sequence[Found] | None, key: str
) -> Item:
    if record.state in _ENDED_BADLY:
        why = f"its import {record.state}: {record.reason or 'no reason was given'}"
        return Item(request=request, step=Step.AGAIN, why=why, record=record)
    if record.state is State.SUCCEEDED and images is not None:
        there = {image.id for image in images if image.status in _THERE}
        if record.image_id not in there:
            why = f"its image {record.image_id} is gone"
            return Item(request=request, step=Step.AGAIN, why=why, key=key)
    why = "" if record.state is State.SUCCEEDED else f"its import is {record.state}"
    return Item(request=request, step=Step.UNCHANGED, why=why, record=record)


def _image(request: Mapping[str, Any]) -> dict[str, Any]:
    """What of a request decides which image is made: another priority is no other image."""
    return {field: value for field, value in request.items() if field not in ABOUT_THE_IMPORT}


def _key(manifest: str, request: ImportRequest, earlier: int) -> str:
    """The same for who plans the same at the same time, so that both get one import."""
    said = json.dumps(_image(request.as_message()), sort_keys=True)
    return f"{KEY_PREFIX}{manifest}/{hashlib.sha256(said.encode()).hexdigest()[:32]}/{earlier + 1}"


def _difference(record: ImportRecord, request: ImportRequest) -> str:
    now, then = _image(request.as_message()), _image(record.request)
    fields = [field for field in sorted(set(now) | set(then)) if now.get(field) != then.get(field)]
    verb = "differs" if len(fields) == 1 else "differ"
    return f"{', '.join(fields)} {verb} from import {record.id}"


def dropped(
    manifest: str, requests: Iterable[ImportRequest], records: Iterable[ImportRecord]
) -> list[ImportRecord]:
    """Imports that a manifest has made, SUCCEEDED, and asks for no more."""
    wanted = [_image(request.as_message()) for request in requests]
    prefix = f"{KEY_PREFIX}{manifest}/"
    return [
        record
        for record in records
        if (record.key or "").startswith(prefix)
        and record.state is State.SUCCEEDED
        and _image(record.request) not in wanted
    ]
