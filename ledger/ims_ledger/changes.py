"""The record fields that a transition or an event changes beside the state."""

from datetime import datetime
from typing import Literal, TypedDict

from pydantic import BaseModel

from ims_config.records import Failure, ImageFacts, PollError, WaitsFor


class Changes(TypedDict, total=False):
    """Keyword arguments of transitions: an absent field stays as it is, None clears it."""

    project: str | None
    job_id: str | None
    image_id: str | None
    image: ImageFacts | None
    error: Failure | None
    poll_error: PollError | None
    waits_for: WaitsFor | None
    cancel: Literal["delete", "leave"] | None
    overdue: bool
    attempts: int
    polls: int
    attempted_at: datetime | None
    submitted_at: datetime | None
    finished_at: datetime | None


def as_columns(changes: Changes) -> dict[str, object]:
    """Values for the imports table."""
    return {name: _plain(value) for name, value in changes.items()}


def as_facts(changes: Changes) -> dict[str, object]:
    """JSON for the event."""
    return {
        name: value.isoformat() if isinstance(value, datetime) else _plain(value)
        for name, value in changes.items()
    }


def _plain(value: object) -> object:
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else value
