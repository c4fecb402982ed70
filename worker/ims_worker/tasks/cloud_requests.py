"""Tasks that clients request from a worker, because only workers hold cloud credentials.

Each returns a WorkerReply as JSON.
"""

from collections import Counter
from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar

from celery import Celery

from ims_config import names
from ims_config.records import Frozen, ImageFacts
from ims_config.worker_reports import (
    CloudError,
    CloudReport,
    FoundImage,
    FoundImages,
    GcReport,
    ResumeReport,
    WorkerReply,
)
from ims_worker import bootstrap
from ims_worker.bootstrap import Services
from ims_worker.errors import CloudProblem
from ims_worker.orphans import missing, orphans
from ims_worker.ownership import import_id_of
from ims_worker.ports import ImageId

P = ParamSpec("P")
R = TypeVar("R", bound=Frozen)
Json = dict[str, object]


def register(app: Celery) -> None:
    for name, action in (
        (names.GC, gc),
        (names.FIND_IMAGES, find_images),
        (names.RESUME, resume),
        (names.CHECK_CLOUD, check_cloud),
    ):
        # Without events, as these tasks would push the imports off Flower's pages.
        app.task(name=name, ignore_result=False, send_events=False)(action)


def _replies(action: Callable[Concatenate[Services, P], R]) -> Callable[P, Json]:
    """The action as a task: its report, or the cloud's error, as JSON."""

    def task(*args: P.args, **kwargs: P.kwargs) -> Json:
        try:
            report = action(bootstrap.services(), *args, **kwargs)
            reply: WorkerReply[R] = WorkerReply(report=report)
        except CloudProblem as problem:
            reply = WorkerReply(error=CloudError(failure=problem.failure, tried=problem.tried))
        return reply.model_dump(mode="json")

    return task


@_replies
def resume(services: Services, cloud: str | None = None) -> ResumeReport:
    """Try the credentials of a cloud again now, and run the imports that they held up, whatever
    name of the cloud these use."""
    held_up = services.ledger.imports.held_up(services.clouds.retry_login(cloud))
    services.due.run_now(list(held_up))
    return ResumeReport(waited=len(held_up), states=Counter(held_up.values()))


@_replies
def gc(
    services: Services, cloud: str | None = None, *, delete: bool = False, unknown: bool = False
) -> GcReport:
    """List our images that no import needs and, with `delete`, delete them; those of imports
    unknown to this ledger only with `unknown` as well."""
    service = services.clouds.service(cloud)
    project = service.project()
    images = service.private_images()
    records = {record.id: record for record in services.ledger.imports.of_project(project)}
    leftovers = tuple(orphans(images, records))
    deleted, not_deleted = [], {}
    for image in leftovers if delete else ():
        if image.known or unknown:
            try:
                service.delete_image(ImageId(image.image_id))
                deleted.append(image.image_id)
            except CloudProblem as problem:
                not_deleted[image.image_id] = str(problem)
    return GcReport(
        project=project,
        leftovers=leftovers,
        missing=tuple(missing(images, records.values())),
        deleted=tuple(deleted),
        not_deleted=not_deleted,
    )


@_replies
def find_images(services: Services, cloud: str | None, names: list[str]) -> FoundImages:
    """The private images of a cloud with one of these names, and the import of each."""
    images = services.clouds.service(cloud).private_images()
    return FoundImages(images=tuple(_found(image) for image in images if image.name in names))


def _found(image: ImageFacts) -> FoundImage:
    return FoundImage(
        id=image.id,
        name=image.name or "",
        status=image.status or "unknown",
        import_id=import_id_of(image),
    )


@_replies
def check_cloud(services: Services, cloud: str | None = None) -> CloudReport:
    """Check the login and the quota of a cloud."""
    return services.clouds.check(cloud)
