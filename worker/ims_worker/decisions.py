"""What the cloud's responses mean and when to poll next: decisions without I/O or clock."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from ims_config.import_request import InvalidRequest
from ims_config.records import ErrorClass, Failure, ImageFacts, ImportRecord, PollError, Progress
from ims_worker.ports import CloudJob, ImageId, JobStatus

# Shorter pauses near the end report it sooner; this is the shortest.
SHORTEST_PAUSE: Final = timedelta(seconds=1)
GROWTH: Final = 1.5
# An overdue import is polled this much more rarely.
OVERDUE_FACTOR: Final = 5
LONGEST_BACK_OFF: Final = timedelta(minutes=5)


@dataclass(frozen=True, slots=True, kw_only=True)
class PollingPolicy:
    """How often to poll, how long to search, and from when on an import is overdue."""

    first: timedelta
    longest: timedelta
    settle: timedelta
    deadline: timedelta

    def pause(
        self, polls: int, *, eta: timedelta | None = None, overdue: bool = False
    ) -> timedelta:
        """The pause after poll number `polls` (from 1); `eta` is the expected time to the end."""
        if overdue:
            return self.longest * OVERDUE_FACTOR
        exponent = min(max(polls - 1, 0), 30)  # a larger one only overflows
        pause = min(self.first * float(GROWTH**exponent), self.longest)
        if eta is None:
            return pause
        # Halving the expected rest reaches the end in a few polls.
        return max(min(pause, eta / 2), min(SHORTEST_PAUSE, self.first))


@dataclass(frozen=True, slots=True)
class JobSucceeded:
    image_id: ImageId | None


@dataclass(frozen=True, slots=True)
class JobFailed:
    failure: Failure


@dataclass(frozen=True, slots=True)
class JobRuns:
    percent: float | None


def interpret_job(job: CloudJob) -> JobSucceeded | JobFailed | JobRuns:
    """Only SUCCESS and FAIL end a job: an image id may appear earlier, and an undocumented status
    is no end."""
    match job.status:
        case JobStatus.SUCCESS:
            return JobSucceeded(job.image_ids[0] if job.image_ids else None)
        case JobStatus.FAIL:
            return JobFailed(job.failure or UNEXPLAINED)
        case JobStatus.INIT | JobStatus.RUNNING | JobStatus.UNKNOWN:
            return JobRuns(job.percent)


UNEXPLAINED: Final = Failure(
    code="FAIL",
    message="IMS reports that the job failed and gives no reason",
    error_class=ErrorClass.PERMANENT,
    hint="Check the image file and the IMS console, then submit it again.",
)


def invalid_request(exc: InvalidRequest) -> Failure:
    """A stored request breaks the current rules: nothing was sent to IMS."""
    return Failure(
        code="REQUEST.invalid",
        message="; ".join(exc.problems),
        error_class=ErrorClass.PERMANENT,
        hint="Nothing was sent to IMS. Correct the request and submit it again.",
    )


def image_unusable(status: str | None, record: ImportRecord) -> Failure:
    """The job succeeded, and its image is killed, deleted or gone."""
    return Failure(
        code=f"IMAGE.{status}",
        message=f"the job ended, but image {record.image_id} is {status}",
        error_class=ErrorClass.PERMANENT,
        hint="Check the image file and submit it again.",
    )


def job_lost(record: ImportRecord) -> Failure:
    """IMS knows neither the job nor an image of it."""
    return Failure(
        code="JOB.lost",
        message=f"IMS reports no image of job {record.job_id}, and none was found",
        error_class=ErrorClass.LOOK_FIRST,
        hint="Search for the image in the IMS console; submit again if it is not there.",
    )


def poll_error(
    failure: Failure, *, before: PollError | None, failures: int | None, now: datetime
) -> PollError:
    """The error of a failed poll. Failures in a row count from the first one, also with different
    codes; their number is unknown if Redis has lost it."""
    return PollError(
        code=failure.code,
        message=failure.message,
        error_class=failure.error_class,
        hint=failure.hint,
        since=before.since if before else now,
        count=(failures and failures + 1) if before else 1,
    )


def progress_of(percent: float | None, *, before: Progress, running: timedelta) -> Progress:
    """Progress never goes backwards, and is 100 % only when the import has succeeded."""
    known = [value for value in (percent, before.percent) if value is not None]
    if not known:
        return Progress()
    best = min(max(known), 99.0)
    eta = None
    if best > 0 and running > timedelta(0):
        eta = round(running.total_seconds() * (100 - best) / best, 1)
    return Progress(percent=best, source="ims", eta_s=eta)


def back_off(attempts: int, *, first: timedelta) -> timedelta:
    """The pause before the retry after refusal number `attempts` (from 1)."""
    return min(first * float(2 ** min(max(attempts - 1, 0), 16)), LONGEST_BACK_OFF)


def ordinal(number: int) -> str:
    """1st, 2nd, 3rd, 4th, 11th, 21st …"""
    teens = 10 < number % 100 < 20  # noqa: PLR2004  # English
    ending = "th" if teens else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def name_exists(failure: Failure, image: ImageFacts) -> Failure:
    """Another image has the name: the import fails and names that image."""
    message = f"{failure.message.removesuffix('.')}: image {image.id}"
    return failure.model_copy(update={"message": message, "error_class": ErrorClass.PERMANENT})
