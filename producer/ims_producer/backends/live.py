"""What changes with each poll of an import, in Redis: progress, times and the count of failures."""

from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import TypeVar

from pydantic import AwareDatetime, ValidationError
from redis import Redis

from ims_config.names import DUE_KEY, LIVE_KEY
from ims_config.records import Frozen, ImportRecord, Progress

Record = TypeVar("Record", bound=ImportRecord)


class Live(Frozen):
    """The state of an import's polls."""

    polls: int | None = None
    last_poll_at: AwareDatetime | None = None
    failures: int | None = None
    next_poll_at: AwareDatetime | None = None
    progress: Progress = Progress()

    def added_to(self, record: Record) -> Record:
        """The record with these facts; without progress while polls fail, as it is out of date."""
        error = record.poll_error
        return record.model_copy(
            update={
                "progress": Progress() if error else self.progress,
                "polls": record.polls if self.polls is None else self.polls,
                "last_poll_at": self.last_poll_at,
                "next_poll_at": self.next_poll_at,
                "poll_error": error and error.model_copy(update={"count": self.failures}),
            }
        )


def read_live(redis: Redis, import_ids: Sequence[str]) -> dict[str, Live]:
    """The polls of each import. May raise redis.RedisError."""
    if not import_ids:
        return {}
    with redis.pipeline(transaction=False) as pipe:
        pipe.hmget(LIVE_KEY, [*import_ids])
        pipe.zmscore(DUE_KEY, [*import_ids])
        texts, scores = pipe.execute()
    return {
        import_id: _live(text, score)
        for import_id, text, score in zip(import_ids, texts, scores, strict=True)
    }


def _live(text: bytes | str | None, due_ms: float | None) -> Live:
    live, progress = Live(), Progress()
    # An unreadable value is as good as none.
    with suppress(ValidationError):
        json = text or ""
        live, progress = Live.model_validate_json(json), Progress.model_validate_json(json)
    return live.model_copy(update={"progress": progress, "next_poll_at": _due_at(due_ms)})


def _due_at(due_ms: float | None) -> datetime | None:
    if due_ms is None:
        return None
    # 0: somebody asked for the next step at once.
    return datetime.fromtimestamp(due_ms / 1000, UTC) if due_ms else datetime.now(UTC)
