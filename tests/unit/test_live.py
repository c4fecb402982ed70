"""What Redis knows about the polls of an import, added to its record."""

from datetime import UTC, datetime

from ims_config.records import ErrorClass, ImportResult, PollError, Progress, State
from ims_producer.backends.live import Live

AT = datetime(2026, 1, 2, tzinfo=UTC)
ERROR = PollError(code="HTTP.500", message="m", error_class=ErrorClass.RETRY, hint="h", since=AT)


def a_record(error: PollError | None = None) -> ImportResult:
    return ImportResult(
        id="i", state=State.RUNNING, name="n", created_at=AT, poll_error=error, polls=7
    )


def test_a_record_gets_progress_and_times_of_its_polls() -> None:
    live = Live(progress=Progress(percent=73, source="ims", eta_s=9), polls=8, last_poll_at=AT)

    record = live.added_to(a_record())

    assert (record.progress.percent, record.progress.eta_s, record.polls) == (73, 9, 8)
    assert (record.last_poll_at, record.next_poll_at, record.poll_error) == (AT, None, None)


def test_progress_from_before_the_failures_is_not_shown() -> None:
    live = Live(progress=Progress(percent=73, source="ims", eta_s=9), failures=4)

    record = live.added_to(a_record(ERROR))

    assert record.progress == Progress()
    assert record.poll_error == ERROR.model_copy(update={"count": 4})


def test_a_count_that_redis_has_lost_is_unknown() -> None:
    record = Live().added_to(a_record(ERROR))

    assert record.poll_error == ERROR
    assert (record.last_poll_at, record.polls) == (None, 7)
