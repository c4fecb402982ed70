"""What operators do: adopt, prune, keys, and what must be asked of a worker because only workers
hold credentials."""

from collections.abc import Callable
from dataclasses import asdict
from datetime import timedelta
from http import HTTPStatus
from typing import Annotated, Any, Final, TypeVar

from celery.exceptions import TimeoutError as NoAnswer
from fastapi import APIRouter, Depends, Path, Query, Request, Response
from kombu.exceptions import OperationalError
from pydantic import BaseModel, ConfigDict, Field
from redis import RedisError

from ims_config.records import ImportRecord, Scope
from ims_ledger.api_keys import ApiKey
from ims_producer.api.auth import Caller, client_of, needs, of_all_clouds, refuse_cloud
from ims_producer.api.problems import ALWAYS, WITH_BODY, Refusal, documented
from ims_producer.api.schemas import CloudText, Flag, Moment, NameText
from ims_producer.checks import Check
from ims_producer.client import WorkerRefused

S = HTTPStatus
_OF_A_WORKER: Final = (*WITH_BODY, S.FAILED_DEPENDENCY)
MOST_NAMES: Final = 1000

router = APIRouter(prefix="/v1", tags=["operating"])

Read = Annotated[Caller, needs(Scope.READ)]
Submit = Annotated[Caller, needs(Scope.SUBMIT)]
Admin = Annotated[Caller, needs(Scope.ADMIN)]
AdminOfAll = Annotated[Caller, Depends(of_all_clouds)]
T = TypeVar("T")


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Adopt(Body):
    """A job that somebody else started."""

    job_id: str = Field(pattern=r"^[A-Za-z0-9_\-]{1,64}$", examples=["ff80808296b27d7e01"])
    name: NameText = Field("adopted", min_length=1)
    cloud: CloudText | None = None


class Find(Body):
    """Imports of images with one of these names, or whose keys begin so; of all time."""

    names: list[NameText] = Field(default_factory=list, max_length=MOST_NAMES)
    keys_from: str | None = Field(None, pattern=r"^[\x21-\x7e]{1,255}$")


class FoundImports(BaseModel):
    """Imports, in no order."""

    items: list[ImportRecord]


class Prune(Body):
    """How long ago imports must have ended to be forgotten."""

    older_than_s: float = Field(strict=True, ge=0, le=100 * 366 * 86400, examples=[7776000])
    only_count: Flag = False


class Pruned(BaseModel):
    imports: int


class OfCloud(Body):
    """An entry of the workers' clouds.yaml; without one their default."""

    cloud: CloudText | None = None


class Gc(OfCloud):
    """`delete`: not only list. `unknown`: also images of imports that this ledger knows not."""

    delete: Flag = False
    unknown: Flag = False


class FindImages(OfCloud):
    """Names of images to look for."""

    names: list[NameText] = Field(max_length=MOST_NAMES)


class Resumed(BaseModel):
    """How many imports waited for that."""

    waited: int


class NewKey(Body):
    """Who may do what, where and until when."""

    name: str = Field(pattern=r"^[\x20-\x7e]{1,64}$", examples=["ci"])
    scopes: list[Scope] = Field(min_length=1)
    clouds: list[CloudText] | None = None
    expires_at: Moment | None = None


class MadeKey(BaseModel):
    """`key` cannot be shown again."""

    id: str
    key: str


class Keys(BaseModel):
    items: list[ApiKey]


class Checks(BaseModel):
    items: list[dict[str, Any]]


def _of_a_worker(ask: Callable[[], T]) -> T:
    try:
        return ask()
    except WorkerRefused as exc:
        raise Refusal(S.FAILED_DEPENDENCY, f"{exc.problem}; {exc.hint}") from exc
    except (NoAnswer, OperationalError, RedisError, OSError) as exc:
        raise Refusal(
            S.SERVICE_UNAVAILABLE, "no worker answered", headers={"Retry-After": "30"}
        ) from exc


# --- the ledger -----------------------------------------------------------------------------


@router.post(
    "/imports:adopt",
    status_code=S.ACCEPTED,
    summary="Follow a job that somebody else started",
    responses={
        200: {"description": "It is followed already.", "model": ImportRecord},
        **documented(*WITH_BODY, S.NOT_FOUND),
    },
)
def adopt(request: Request, response: Response, caller: Submit, body: Adopt) -> ImportRecord:
    """The same job gives the same import."""
    refuse_cloud(caller, body.cloud)
    asked = client_of(request).adopt(body.job_id, name=body.name, cloud=body.cloud, by=caller.name)
    # The same job may be followed already, for a cloud that this caller must not see.
    caller.ensure_visible(asked.record)
    response.status_code = S.ACCEPTED if asked.created else S.OK
    return asked.record


@router.post(
    "/imports:find",
    summary="Find imports by many names, or by the beginning of their keys",
    responses=documented(*WITH_BODY),
)
def find(request: Request, caller: Read, body: Find) -> FoundImports:
    """For those who compare a list of images with what is known."""
    client = client_of(request)
    found = client.named(body.names)
    if body.keys_from is not None:
        found += client.with_keys_from(body.keys_from)
    return FoundImports(items=[record for record in found if caller.may_ask_for(record.cloud)])


@router.post(
    "/imports:prune",
    summary="Forget imports that ended long ago",
    responses=documented(*WITH_BODY),
)
def prune(request: Request, _: AdminOfAll, body: Prune) -> Pruned:
    """Open imports are never touched."""
    older = timedelta(seconds=body.older_than_s)
    return Pruned(imports=client_of(request).prune(older_than=older, only_count=body.only_count))


# --- what a worker is asked -----------------------------------------------------------------


@router.post(
    "/clouds:find-images",
    summary="Private images of a cloud by name, and which import each is from",
    responses=documented(*_OF_A_WORKER),
)
def find_images(request: Request, caller: Read, body: FindImages) -> dict[str, Any]:
    """Executed by a worker, because only workers hold credentials."""
    refuse_cloud(caller, body.cloud)
    client = client_of(request)
    return {"images": _of_a_worker(lambda: client.find_images(body.cloud, body.names))}


@router.post(
    "/clouds:gc",
    summary="List, and delete if told to, images of ours that no import needs",
    responses=documented(*_OF_A_WORKER),
)
def gc(request: Request, caller: Admin, body: Gc) -> dict[str, Any]:
    """Executed by a worker, because only workers hold credentials."""
    refuse_cloud(caller, body.cloud)
    client = client_of(request)
    return _of_a_worker(lambda: client.gc(body.cloud, delete=body.delete, unknown=body.unknown))


@router.post(
    "/clouds:resume",
    summary="Let workers try a cloud's credentials again, after they were corrected",
    responses=documented(*_OF_A_WORKER),
)
def resume(request: Request, caller: Admin, body: OfCloud) -> Resumed:
    """Executed by a worker, because only workers hold credentials."""
    refuse_cloud(caller, body.cloud)
    client = client_of(request)
    return Resumed(waited=_of_a_worker(lambda: client.resume(body.cloud)))


class Examined(BaseModel):
    """Which clouds to have a worker log in to."""

    model_config = ConfigDict(extra="forbid")

    cloud: list[CloudText] = Field(default_factory=list, max_length=10)


@router.get(
    "/doctor", summary="Check every part of the installation", responses=documented(*ALWAYS)
)
def doctor(request: Request, _: AdminOfAll, query: Annotated[Examined, Query()]) -> Checks:
    """As `ims-import doctor` does where the API runs; may take a minute when workers are gone."""
    checks: list[Check] = list(client_of(request).run_checks(query.cloud or [None], migrate=False))
    return Checks(items=[asdict(check) for check in checks])


# --- keys -----------------------------------------------------------------------------------


@router.post(
    "/keys",
    status_code=S.CREATED,
    summary="Make an API key",
    responses=documented(*WITH_BODY),
)
def create_key(request: Request, _: AdminOfAll, body: NewKey) -> MadeKey:
    """Its text is in this answer and nowhere else."""
    key, text = client_of(request).create_key(
        body.name, scopes=set(body.scopes), clouds=body.clouds or None, expires_at=body.expires_at
    )
    return MadeKey(id=key.id, key=text)


@router.get("/keys", summary="List API keys", responses=documented(*ALWAYS))
def list_keys(request: Request, _: AdminOfAll) -> Keys:
    """Without their secrets."""
    return Keys(items=client_of(request).keys())


@router.post(
    "/keys/{key_id}/revoke",
    summary="Revoke an API key",
    responses=documented(*ALWAYS, S.NOT_FOUND),
)
def revoke_key(
    request: Request, _: AdminOfAll, key_id: Annotated[str, Path(pattern=r"^[0-9a-f]{1,32}$")]
) -> ApiKey:
    """From this moment on it opens nothing."""
    return client_of(request).revoke_key(key_id)
