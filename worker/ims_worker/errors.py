"""Everything that can go wrong with the cloud, by what to do about it.

* CloudProblem
  - NotSent          the request surely did not leave: try again later
  - Unavailable      the cloud answered "not now", or a read got no answer: try again later
  - OutcomeUnknown   a create left and its answer did not come: look before trying again
  - Refused          the cloud said no: do not repeat the same request
  - LoginRefused     IAM does not take the credentials: one attempt, then the cloud is on hold
"""

from datetime import timedelta

from ims_config.records import Failure


class CloudProblem(Exception):
    """A call to the cloud that did not give what was asked for.

    `failure` has the cloud's code and words; `tried` says the call, e.g.
    `GET /v1/…/jobs/… (HTTP 503, request r-42)`. Neither ever holds a secret.
    """

    def __init__(
        self, failure: Failure, *, tried: str, retry_after: timedelta | None = None
    ) -> None:
        super().__init__(f"{failure.code}: {failure.message} [{tried}]")
        self.failure = failure
        self.tried = tried
        self.retry_after = retry_after


class NotSent(CloudProblem):
    """Name lookup failed, connection refused, TLS failed: nothing reached the cloud."""


class Unavailable(CloudProblem):
    """429, 5xx, no or unreadable answer to a read; or a refusal of class retry."""


class OutcomeUnknown(CloudProblem):
    """A create was sent and may or may not have been taken: timeout, lost connection, 5xx."""


class Refused(CloudProblem):
    """A 4xx of class permanent, hold or look-first; `failure.error_class` tells which."""


class LoginRefused(CloudProblem):
    """IAM refused the credentials of this cloud, or it is on hold since it did."""
