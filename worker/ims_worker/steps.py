"""What comes next for an import, and what is kept between its polls.

`adapters/redis/leases.py` stores a PollState as JSON in Redis, and `backends/live.py` of the
producer reads that JSON: its field names are a contract.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from ims_config.records import ImportRecord, ImportResult, Progress, State


@dataclass(frozen=True, slots=True, kw_only=True)
class PollState:
    """What polls of one import remember between them; losing it is harmless."""

    polls: int = 0
    progress: Progress = field(default_factory=Progress)
    state: State | None = None
    """The import's state at the last poll; None before the first."""
    status_text: str = ""
    """The RETRY payload of the last poll; the next one writes it only when it has changed."""
    last_at: datetime | None = None
    """When the cloud was asked last, with or without success."""
    failures: int | None = None
    """Failed polls in a row; None if the number was lost, or after a success."""


@dataclass(frozen=True, slots=True)
class Finished:
    """The import has ended."""

    result: ImportResult


@dataclass(frozen=True, slots=True)
class PollAgain:
    """The import has not ended; its next step, a submit or a poll, is due after this pause."""

    after: timedelta
    record: ImportRecord
    poll_state: PollState


NextStep = Finished | PollAgain
