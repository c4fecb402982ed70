"""Values that both backends take and return."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import TypedDict

from ims_config.records import ImportRecord, State


@dataclass(frozen=True, slots=True)
class Submission:
    """The import of a request, whether it is new, and whether it is in the queue.

    A recorded import that is not queued starts later: the workers' sweep finds it.
    """

    record: ImportRecord
    created: bool
    queued: bool


class ImportFilter(TypedDict, total=False):
    """The imports that a list contains: those that match every field that is set.

    `tag` is a key and its value. `created_after` is inclusive, `created_before` is not.
    """

    states: Collection[State]
    name: str | None
    cloud: str | None
    tag: tuple[str, str] | None
    created_after: datetime | None
    created_before: datetime | None
