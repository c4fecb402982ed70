"""Operations of administrators: adopt, find, prune, API keys, and what a worker executes because
only workers hold cloud credentials."""

from datetime import timedelta
from http import HTTPStatus
from typing import Annotated, Final

from fastapi import APIRouter, Path, Query, Response
from pydantic import Field

from ims_config.import_request import CloudName
from ims_config.records import ImportRecord, Scope
from ims_config.worker_reports import FoundImages, GcReport, ResumeReport
from ims_ledger.api_keys import ApiKey
from ims_producer.api.auth import Admin, AdminOfAllClouds, Backend, Reader, Submitter
from ims_producer.api.problems import BODY_ERRORS, problem_responses
from ims_producer.api.schemas import Body, Flag, IdText, Moment, NameText
from ims_producer.http_contract import Checks, CreatedKey, FoundImports, Keys, Pruned

S = HTTPStatus
_WORKER_ERRORS: Final = (*BODY_ERRORS, S.FAILED_DEPENDENCY)
MAX_NAMES: Final = 1000

router = APIRouter(prefix="/v1", tags=["administration"])


class Adopt(Body):
    """An IMS job that was started elsewhere."""

    job_id: IdText = Field(examples=["ff80808296b27d7e01"])
    name: NameText = Field("adopted", min_length=1)
    cloud: CloudName | None = None


class Find(Body):
    """Image names, or a prefix of idempotency keys."""

    names: list[NameText] = Field(default_factory=list, max_length=MAX_NAMES)
    keys_from: str | None = Field(None, pattern=r"^[\x21-\x7e]{1,255}$")


class Prune(Body):
    """The minimum time since the end of an import."""

    older_than_s: float = Field(strict=True, ge=0, le=100 * 366 * 86400, examples=[7776000])
    only_count: Flag = False


class Cloud(Body):
    """An entry of the workers' clouds.yaml; without one their default."""

    cloud: CloudName | None = None


class Gc(Cloud):
    """`delete`: delete the images. `unknown`: also images of imports unknown to this ledger."""

    delete: Flag = False
    unknown: Flag = False


class FindImages(Cloud):
    """Names of images."""

    names: list[NameText] = Field(max_length=MAX_NAMES)


class NewKey(Body):
    """What the key allows, for which clouds, and until when."""

    name: str = Field(pattern=r"^[\x20-\x7e]{1,64}$", examples=["ci"])
    scopes: list[Scope] = Field(min_length=1)
    clouds: list[CloudName] | None = None
    expires_at: Moment | None = None


class CloudsQuery(Body):
    """The clouds that a worker logs in to."""

    cloud: list[CloudName] = Field(default_factory=list, max_length=10)


# --- the ledger -----------------------------------------------------------------------------


@router.post(
    "/imports:adopt",
    status_code=S.ACCEPTED,
    summary="Track an IMS job that was started elsewhere",
    responses={
        200: {"description": "The job is tracked already.", "model": ImportRecord},
        **problem_responses(*BODY_ERRORS, S.NOT_FOUND),
    },
)
def adopt(backend: Backend, response: Response, caller: Submitter, body: Adopt) -> ImportRecord:
    """The same job returns the same import."""
    caller.ensure_cloud(body.cloud)
    submission = backend.adopt(body.job_id, name=body.name, cloud=body.cloud, by=caller.name)
    # The job may be tracked already for a cloud that this caller must not see.
    caller.ensure_visible(submission.record)
    response.status_code = S.ACCEPTED if submission.created else S.OK
    return submission.record


@router.post(
    "/imports:find",
    summary="Find imports by many names, or by a prefix of their keys",
    responses=problem_responses(*BODY_ERRORS),
)
def find(backend: Backend, caller: Reader, body: Find) -> FoundImports:
    """For comparing a list of images with the ledger."""
    records = backend.named(body.names)
    if body.keys_from is not None:
        records += backend.with_keys_from(body.keys_from)
    return FoundImports(items=[record for record in records if caller.allows_cloud(record.cloud)])


@router.post(
    "/imports:prune",
    summary="Delete finished imports from the ledger",
    responses=problem_responses(*BODY_ERRORS),
)
def prune(backend: Backend, _: AdminOfAllClouds, body: Prune) -> Pruned:
    """Open imports stay."""
    older_than = timedelta(seconds=body.older_than_s)
    return Pruned(imports=backend.prune(older_than=older_than, only_count=body.only_count))


# --- executed by a worker -------------------------------------------------------------------


@router.post(
    "/clouds:find-images",
    summary="Find private images of a cloud by name, and the import of each",
    responses=problem_responses(*_WORKER_ERRORS),
)
def find_images(backend: Backend, caller: Reader, body: FindImages) -> FoundImages:
    """Executed by a worker, because only workers hold credentials."""
    caller.ensure_cloud(body.cloud)
    return FoundImages(images=tuple(backend.find_images(body.cloud, body.names)))


@router.post(
    "/clouds:gc",
    summary="List, and on request delete, images that no import needs",
    responses=problem_responses(*_WORKER_ERRORS),
)
def gc(backend: Backend, caller: Admin, body: Gc) -> GcReport:
    """Executed by a worker, because only workers hold credentials."""
    caller.ensure_cloud(body.cloud)
    return backend.gc(body.cloud, delete=body.delete, unknown=body.unknown)


@router.post(
    "/clouds:resume",
    summary="Retry the credentials of a cloud after they were corrected",
    responses=problem_responses(*_WORKER_ERRORS),
)
def resume(backend: Backend, caller: Admin, body: Cloud) -> ResumeReport:
    """Executed by a worker, because only workers hold credentials."""
    caller.ensure_cloud(body.cloud)
    return backend.resume(body.cloud)


@router.get("/doctor", summary="Check every part of the installation")
def doctor(backend: Backend, _: AdminOfAllClouds, query: Annotated[CloudsQuery, Query()]) -> Checks:
    """As `ims-import doctor` on the host of the API; may take a minute without workers."""
    return Checks(items=list(backend.run_checks(query.cloud, migrate=False)))


# --- API keys -------------------------------------------------------------------------------


@router.post(
    "/keys",
    status_code=S.CREATED,
    summary="Create an API key",
    responses=problem_responses(*BODY_ERRORS),
)
def create_key(backend: Backend, _: AdminOfAllClouds, body: NewKey) -> CreatedKey:
    """Only this response contains its text."""
    key, text = backend.create_key(
        body.name, scopes=set(body.scopes), clouds=body.clouds or None, expires_at=body.expires_at
    )
    return CreatedKey(id=key.id, key=text)


@router.get("/keys", summary="List API keys")
def list_keys(backend: Backend, _: AdminOfAllClouds) -> Keys:
    """Without their secrets."""
    return Keys(items=backend.keys())


@router.post(
    "/keys/{key_id}/revoke",
    summary="Revoke an API key",
    responses=problem_responses(S.NOT_FOUND),
)
def revoke_key(
    backend: Backend, _: AdminOfAllClouds, key_id: Annotated[str, Path(pattern=r"^[0-9a-f]{1,32}$")]
) -> ApiKey:
    """Effective immediately, for all processes."""
    return backend.revoke_key(key_id)
