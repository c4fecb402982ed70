"""Everything that can go wrong with the cloud, by what to do about it.

* CloudProblem
  - NotSent          the request did not leave the worker: retry later
  - Unavailable      the cloud is not ready, or a read got no response: retry later
    - Throttled      the cloud limits creates, or all calls, of the project: pause them
  - OutcomeUnknown   a create was sent and its response was lost: search before retrying
  - Refused          the cloud refused: do not repeat the same request
    - JobNotFound    IMS does not know the job
    - NameExists     IMS has an image of this name, perhaps from the same import
  - LoginRefused     IAM refuses the credentials: one attempt, then logins are on hold
"""

from datetime import timedelta
from enum import Enum, auto

from ims_config.records import Failure


class CloudProblem(Exception):
    """A failed call to the cloud.

    `failure` has the cloud's code and message; `tried` names the call, e.g.
    `GET /v1/…/jobs/… (HTTP 503, request r-42)`. Neither contains a secret.
    """

    def __init__(
        self, failure: Failure, *, tried: str, retry_after: timedelta | None = None
    ) -> None:
        super().__init__(f"{failure} [{tried}]")
        self.failure = failure
        self.tried = tried
        self.retry_after = retry_after


class NotSent(CloudProblem):
    """Name lookup, connection or TLS failed: nothing reached the cloud."""


class Unavailable(CloudProblem):
    """429, 5xx, no or an unreadable response to a read, or an error of class retry."""


class ThrottleScope(Enum):
    """Which calls of a project the cloud limits."""

    CREATES = auto()
    ALL_CALLS = auto()


class Throttled(Unavailable):
    """The cloud limits the calls of the project: every worker should pause them."""

    def __init__(
        self,
        failure: Failure,
        *,
        scope: ThrottleScope,
        tried: str,
        retry_after: timedelta | None = None,
    ) -> None:
        super().__init__(failure, tried=tried, retry_after=retry_after)
        self.scope = scope


class OutcomeUnknown(CloudProblem):
    """A create was sent, and the cloud may have accepted it: timeout, lost connection, 5xx."""


class Refused(CloudProblem):
    """A 4xx of class permanent, blocked or look-first, as `failure.error_class` says."""


class JobNotFound(Refused):
    """IMS does not know the job: it was never created, or it is too old."""


class NameExists(Refused):
    """A create was refused because an image of this name exists, perhaps of the same import."""


class LoginRefused(CloudProblem):
    """IAM refused the credentials of this cloud, or logins are on hold since it did."""
