"""Reports of the tasks that a worker executes for others, because only workers hold credentials."""

from typing import Annotated, Generic, TypeVar

from pydantic import Field

from ims_config.records import Failure, Frozen, State

Report = TypeVar("Report")


class CloudError(Frozen):
    """Why the cloud did not do what was asked; `tried` names the call, without secrets."""

    failure: Failure
    tried: str

    def __str__(self) -> str:
        return f"{self.failure.code}: {self.failure.message} [{self.tried}]"


class WorkerReply(Frozen, Generic[Report]):
    """The result of such a task: exactly one of `report` and `error`."""

    report: Report | None = None
    error: CloudError | None = None


class OrphanedImage(Frozen):
    """An image with our tag that no import needs; `known`: its import is in the ledger."""

    image_id: str
    name: str
    status: str
    import_id: str
    why: str
    known: bool


class GcReport(Frozen):
    """Images that no import needs, and imports whose image is gone (`missing`: their ids)."""

    project: str
    leftovers: tuple[OrphanedImage, ...] = ()
    missing: tuple[str, ...] = ()
    deleted: tuple[str, ...] = ()
    not_deleted: dict[str, str] = Field(default_factory=dict)
    """Image id to the reason why it could not be deleted."""


class FoundImage(Frozen):
    """A private image of a project, and the import that made it."""

    id: str
    name: str
    status: str
    import_id: str | None = None


class FoundImages(Frozen):
    images: tuple[FoundImage, ...] = ()


class ResumeReport(Frozen):
    """How many imports were held up and run now, in total and by state."""

    waited: int
    states: dict[State, int] = Field(default_factory=dict)


class ImageQuota(Frozen):
    """Private images of a project."""

    used: Annotated[int, Field(ge=0)]
    limit: Annotated[int, Field(ge=0)]


class CloudReport(Frozen):
    """What works with a cloud. `login_error` is None when the login succeeded."""

    cloud: str | None = None
    auth_url: str | None = None
    user: str | None = None
    project: str | None = None
    login_error: CloudError | None = None
    token_expires_at: str | None = None
    shared_token: bool | None = None
    """Whether all workers share one token; None if the login failed."""
    quota: ImageQuota | None = None
    quota_error: CloudError | None = None


class BucketRuleReport(Frozen):
    """Whether the bucket of a rule can be listed; `rule` is None if the rules file is invalid."""

    rule: str | None = None
    location: str | None = None
    problem: str | None = None


class BucketRulesReport(Frozen):
    rules: tuple[BucketRuleReport, ...] = ()
