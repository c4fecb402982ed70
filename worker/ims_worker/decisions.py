"""What a reading of the cloud means and when to look again: decisions without I/O or clock."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from ims_config.records import ErrorClass, Failure, Progress
from ims_worker.ports import CloudJob, ImageId, JobStatus

# Near the end a shorter pause tells the user sooner; never shorter than this.
SHORTEST_PAUSE: Final = timedelta(seconds=1)
GROWTH: Final = 1.5
# Past its deadline an import is looked at this much more rarely.
OVERDUE_FACTOR: Final = 5
LONGEST_BACK_OFF: Final = timedelta(minutes=5)


@dataclass(frozen=True, slots=True, kw_only=True)
class PollingPolicy:
    """How often to look, and from when on an import is overdue."""

    first: timedelta
    longest: timedelta
    settle: timedelta
    deadline: timedelta

    def pause(
        self, polls: int, *, eta: timedelta | None = None, overdue: bool = False
    ) -> timedelta:
        """The pause after look number `polls` (from 1); half the expected rest when it is near."""
        exponent = min(max(polls - 1, 0), 30)  # beyond, the power only overflows
        grown = min(self.first * float(GROWTH**exponent), self.longest)
        if overdue:
            return self.longest * OVERDUE_FACTOR
        if eta is None:
            return grown
        # Half the rest again and again homes in on the end in a few looks.
        return max(min(grown, eta / 2), min(SHORTEST_PAUSE, self.first))


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
    """Only SUCCESS and FAIL end a job: an image id may show long before, and a word that is not
    documented is no end."""
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
    hint="Look at the image file and at IMS's console; then submit it again.",
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
    """The pause before asking again after refusal number `attempts` (from 1)."""
    return min(first * float(2 ** min(max(attempts - 1, 0), 16)), LONGEST_BACK_OFF)


def ordinal(number: int) -> str:
    """1st, 2nd, 3rd, 4th, 11th, 21st …"""
    teens = 10 < number % 100 < 20  # noqa: PLR2004  # English
    ending = "th" if teens else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"
