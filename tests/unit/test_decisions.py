"""Decisions about readings of the cloud: what they mean and when to look again."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ims_config.records import ErrorClass, Failure, Progress
from ims_worker.decisions import (
    LONGEST_BACK_OFF,
    UNEXPLAINED,
    JobFailed,
    JobRuns,
    JobSucceeded,
    PollingPolicy,
    back_off,
    interpret_job,
    progress_of,
)
from ims_worker.ports import CloudJob, ImageId, JobId, JobStatus

QUICK_SETTINGS = PollingPolicy(
    first=timedelta(seconds=12),
    longest=timedelta(seconds=60),
    settle=timedelta(minutes=5),
    deadline=timedelta(hours=6),
)


def a_job(status: JobStatus, **facts: object) -> CloudJob:
    return CloudJob(id=JobId("j"), status=status, **facts)  # type: ignore[arg-type]  # a builder


@pytest.mark.parametrize("status", [JobStatus.INIT, JobStatus.RUNNING, JobStatus.UNKNOWN])
def test_an_image_id_before_success_is_no_success(status: JobStatus) -> None:
    assert interpret_job(a_job(status, image_ids=(ImageId("i"),), percent=40.0)) == JobRuns(40.0)


def test_success_names_the_first_image() -> None:
    job = a_job(JobStatus.SUCCESS, image_ids=(ImageId("system"), ImageId("data")))

    assert interpret_job(job) == JobSucceeded(ImageId("system"))


def test_a_failure_keeps_the_clouds_reason() -> None:
    failure = Failure(code="IMG.0057", message="empty", error_class=ErrorClass.PERMANENT, hint="")

    assert interpret_job(a_job(JobStatus.FAIL, failure=failure)) == JobFailed(failure)


def test_a_failure_without_a_reason_says_that_there_is_none() -> None:
    assert interpret_job(a_job(JobStatus.FAIL)) == JobFailed(UNEXPLAINED)


def test_pauses_grow_to_the_longest() -> None:
    seconds = [QUICK_SETTINGS.pause(polls).total_seconds() for polls in range(1, 8)]

    assert seconds == [12, 18, 27, 40.5, 60, 60, 60]


def test_the_pause_is_shorter_when_the_end_is_near() -> None:
    assert QUICK_SETTINGS.pause(5, eta=timedelta(seconds=10)) == timedelta(seconds=5)


def test_an_overdue_import_is_looked_at_rarely() -> None:
    assert QUICK_SETTINGS.pause(100, overdue=True) == timedelta(minutes=5)


@given(st.integers(1, 10**6), st.none() | st.timedeltas(timedelta(0), timedelta(days=9)))
def test_a_pause_is_never_zero_and_never_longer_than_the_longest(
    polls: int, eta: timedelta | None
) -> None:
    assert timedelta(0) < QUICK_SETTINGS.pause(polls, eta=eta) <= QUICK_SETTINGS.longest


@given(st.lists(st.none() | st.floats(0, 100), min_size=2))
def test_progress_never_goes_back_and_is_never_whole_before_the_end(
    readings: list[float | None],
) -> None:
    shown: list[float] = []
    progress = Progress()
    for reading in readings:
        progress = progress_of(reading, before=progress, running=timedelta(minutes=1))
        shown += [] if progress.percent is None else [progress.percent]

    assert shown == sorted(shown)
    assert all(percent < 100 for percent in shown)


def test_there_is_no_percent_where_the_cloud_gives_none() -> None:
    assert progress_of(None, before=Progress(), running=timedelta(minutes=1)).percent is None


def test_the_rest_is_estimated_from_the_clouds_percent() -> None:
    progress = progress_of(25.0, before=Progress(), running=timedelta(minutes=1))

    assert progress.eta_s == 180


@given(st.integers(0, 10**9))
def test_backing_off_has_a_bound(attempts: int) -> None:
    assert timedelta(0) < back_off(attempts, first=timedelta(seconds=12)) <= LONGEST_BACK_OFF
