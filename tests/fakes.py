"""Fakes of the importer's ports, and the failures that they raise."""

from collections.abc import Callable
from datetime import datetime, timedelta

from ims_config.records import ErrorClass, Failure
from ims_worker.errors import Refused, Throttled, ThrottleScope
from ims_worker.ports import ImageService


def a_failure(
    code: str = "IMG.0057",
    message: str = "The image file is empty or in incorrect format.",
    error_class: ErrorClass = ErrorClass.PERMANENT,
) -> Failure:
    return Failure(code=code, message=message, error_class=error_class, hint="Look at the file.")


def busy() -> Throttled:
    failure = a_failure("IMG.0060", "too many tasks", ErrorClass.RETRY)
    tried = "POST /v2/cloudimages/action (HTTP 400)"
    return Throttled(failure, scope=ThrottleScope.CREATES, tried=tried)


def refused(code: str = "IMG.0024", error_class: ErrorClass = ErrorClass.PERMANENT) -> Refused:
    failure = a_failure(code, "refused", error_class)
    return Refused(failure, tried="POST /v2/cloudimages/action (HTTP 400)")


class FakeCooldowns:
    """Pauses that follow the clock of the test."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now = now
        self._until: dict[tuple[str, bool], datetime] = {}

    def rest(self, project: str, *, create: bool) -> timedelta:
        kinds = (False, True) if create else (False,)
        ends = [self._until.get((project, kind), self._now()) for kind in kinds]
        return max(timedelta(0), *(end - self._now() for end in ends))

    def begin(self, project: str, pause: timedelta, *, only_creates: bool) -> None:
        key = (project, only_creates)
        self._until[key] = max(self._until.get(key, self._now()), self._now() + pause)


class FakeClouds:
    """One service, or one per name; an unknown name is refused as in clouds.yaml."""

    def __init__(self, service: ImageService, **named: ImageService) -> None:
        self._default = service
        self._named = named

    def service(self, cloud: str | None) -> ImageService:
        if cloud is None:
            return self._default
        if cloud not in self._named:
            raise refused("CLOUD.unknown")
        return self._named[cloud]
