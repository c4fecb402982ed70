"""IMS over HTTP: each call once, each answer sorted by what is known about its effect."""

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, Final, Literal, Protocol, TypeVar
from urllib.parse import quote

from keystoneauth1.exceptions import CatalogException
from keystoneauth1.session import Session

from ims_config.import_request import ImportRequest
from ims_config.names import IMPORT_ID_TAG
from ims_config.records import ErrorClass, Failure, ImageFacts
from ims_worker.adapters.otc import responses
from ims_worker.adapters.otc.error_catalog import Meaning, from_gateway, meaning_of
from ims_worker.adapters.otc.http import CALL_FAILED, explain
from ims_worker.adapters.otc.payloads import to_wire
from ims_worker.adapters.otc.responses import Unreadable
from ims_worker.adapters.otc.tokens import Now
from ims_worker.errors import (
    CloudProblem,
    JobNotFound,
    NotSent,
    OutcomeUnknown,
    Refused,
    Throttled,
    ThrottleScope,
    Unavailable,
)
from ims_worker.ports import CloudJob, ImageId, JobId, ProjectId, Quota

PAGE: Final = 200
MAX_PAGES: Final = 50
# The second one with new credentials.
TRIES: Final = 2
_ELSEWHERE: Final = frozenset(
    {
        HTTPStatus.MOVED_PERMANENTLY,
        HTTPStatus.TEMPORARY_REDIRECT,
        HTTPStatus.PERMANENT_REDIRECT,
    }
)
_NOT_ACCEPTED: Final = frozenset({HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE})
_THROTTLES: Final[Mapping[Meaning | None, ThrottleScope]] = {
    Meaning.TOO_MANY_JOBS: ThrottleScope.CREATES,
    Meaning.TOO_MANY_CALLS: ThrottleScope.ALL_CALLS,
}
_VERSION: Final = re.compile(r"/v\d+(\.\d+)?(/[0-9a-fA-F]{32})?$")

T = TypeVar("T")


class Authenticator(Protocol):
    """The part of keystoneauth's plugin interface that this client uses: any plugin will do.

    A signature (AK/SK) covers the whole request, which `get_headers` does not see: signing is a
    plugin that names the project, and a `requests.auth.AuthBase` on the session.
    """

    def get_headers(self, session: Session) -> Mapping[str, str] | None: ...

    def get_endpoint(
        self,
        session: Session,
        *,
        service_type: str,
        interface: str | list[str],
        region_name: str | None,
    ) -> str | None: ...

    def get_project_id(self, session: Session) -> str | None: ...

    def invalidate(self) -> bool:
        """Drop the credentials that this thread's last call used; whether a retry makes sense."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back."""

    status: int
    body: bytes = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    tried: str
    failure: Failure | None
    """None for 2xx."""


class ImsService:
    """The part of IMS an import uses, in the project of the token. Safe for threads."""

    def __init__(
        self,
        session: Session,
        auth: Authenticator,
        *,
        region: str | None = None,
        interface: str | list[str] = "public",
        endpoint_override: str | None = None,
        job_api: Literal["status", "progress"] = "status",
        now: Now = lambda: datetime.now(UTC),
    ) -> None:
        self._session = session
        self._auth = auth
        self._region = region
        self._interface = interface
        self._endpoint_override = endpoint_override
        self._job_api = job_api
        self._now = now

    # --- what an import needs -------------------------------------------------------------

    def project(self) -> ProjectId:
        project = self._auth.get_project_id(self._session)
        if not project:
            raise Refused(_NO_PROJECT, tried="read the project of the credentials")
        return ProjectId(project)

    def create_image(self, request: ImportRequest, *, import_id: str) -> JobId:
        """Ask once; only a refused token, which surely made nothing, leads to a second try."""
        path, body = to_wire(request, import_id=import_id)
        answer = self._ask("POST", path, body=body)
        if answer.failure is not None:
            raise self._create_failed(answer, answer.failure)
        try:
            return responses.parse_job_id(answer.body)
        except Unreadable as exc:
            raise OutcomeUnknown(_unreadable(answer, exc), tried=answer.tried) from exc

    def read_job(self, job_id: JobId) -> CloudJob:
        path = (
            f"/v1/cloudimages/job/{_part(job_id)}"
            if self._job_api == "progress"
            else f"/v1/{_part(self.project())}/jobs/{_part(job_id)}"
        )
        answer = self._ask("GET", path)
        if answer.failure is not None:
            unknown = meaning_of(answer.failure.code) is Meaning.JOB_NOT_FOUND
            if unknown and answer.status < _SERVER_ERROR:
                raise JobNotFound(answer.failure, tried=answer.tried)
            raise self._read_failed(answer, answer.failure)
        return _parsed(answer, lambda body: responses.parse_job(body, asked=job_id))

    def read_image(self, image_id: ImageId) -> ImageFacts | None:
        answer = self._ask("GET", f"/v2/images/{_part(image_id)}")
        if answer.failure is None:
            return _parsed(answer, responses.parse_image)
        if _no_such_image(answer.status, answer.failure.code):
            return None
        raise self._read_failed(answer, answer.failure)

    def images_tagged(self, import_id: str) -> Sequence[ImageFacts]:
        """Images with our tag. Written `key.value` or `key=value`, queried as `key=value`; where
        a filter is ignored, other people's images must not pass for ours."""
        ours = {f"{IMPORT_ID_TAG}{sign}{import_id}" for sign in "=."}
        found = self._images({"tag": f"{IMPORT_ID_TAG}={import_id}"})
        return [image for image in found if ours.intersection(image.tags)]

    def images_named(self, name: str, *, since: datetime) -> Sequence[ImageFacts]:
        moment = since.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        found = self._images({"name": name, "created_at": f"gte:{moment}"})
        # `created_at` of the same second format compares as text.
        return [
            image
            for image in found
            if image.name == name and (image.created_at is None or image.created_at >= moment)
        ]

    def private_images(self) -> Sequence[ImageFacts]:
        return self._images({"__imagetype": "private"})

    def delete_image(self, image_id: ImageId) -> None:
        answer = self._ask("DELETE", f"/v2/images/{_part(image_id)}")
        if answer.failure is None or _no_such_image(answer.status, answer.failure.code):
            return
        raise self._read_failed(answer, answer.failure)

    def quota(self) -> Quota:
        answer = self._ask("GET", "/v1/cloudimages/quota")
        if answer.failure is not None:
            raise self._read_failed(answer, answer.failure)
        return _parsed(answer, responses.parse_quota)

    # --- one call -------------------------------------------------------------------------

    def _images(self, query: Mapping[str, str]) -> list[ImageFacts]:
        """All pages: the marker is the last image's id, and no answer says which page is last."""
        owner = self.project()
        found: dict[str, ImageFacts] = {}
        marker: dict[str, str] = {}
        for _ in range(MAX_PAGES):
            params = {"owner": str(owner), **query, "limit": str(PAGE), **marker}
            answer = self._ask("GET", "/v2/cloudimages", params=params)
            if answer.failure is not None:
                raise self._read_failed(answer, answer.failure)
            page = _parsed(answer, responses.parse_images)
            news = [image for image in page if image.id not in found]
            found.update({image.id: image for image in news})
            # A service that ignores the marker answers the same page for ever.
            if len(page) < PAGE or not news:
                return list(found.values())
            marker = {"marker": page[-1].id}
        raise Unavailable(_TOO_MANY, tried="GET /v2/cloudimages")

    def _ask(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> Answer:
        for _ in range(TRIES):
            answer = self._send(method, path, params, body)
            if not _credentials_refused(answer):
                return answer
            # After the retry as well: the plugin learns that new credentials do not help.
            if not self._auth.invalidate():
                break
        assert answer.failure is not None  # noqa: S101  # a refusal is one
        raise Refused(_with_class(answer.failure, ErrorClass.AUTH), tried=answer.tried)

    def _send(
        self,
        method: str,
        path: str,
        params: Mapping[str, str] | None,
        body: Mapping[str, Any] | None,
    ) -> Answer:
        headers = dict(self._auth.get_headers(self._session) or {})
        url = self._endpoint() + path
        try:
            response = self._session.request(
                url,
                method,
                headers=headers,
                params=params,
                json=body,
                authenticated=False,
                raise_exc=False,
                redirect=False,
                connect_retries=0,
                status_code_retries=0,
                # keystoneauth's debug lines hold headers and bodies.
                log=False,
            )
        except CALL_FAILED as exc:
            raise _no_answer(exc, method, path) from exc
        status, content = int(response.status_code), response.content or b""
        failure = None
        request_id = responses.request_id_of(response.headers)
        if not HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
            failure = responses.parse_failure(status, content, response.headers)
            request_id = failure.request_id
        return Answer(
            status=status,
            body=content,
            headers=response.headers,
            tried=_tried(method, path, f"HTTP {status}", request_id),
            failure=failure,
        )

    def _endpoint(self) -> str:
        url = self._endpoint_override
        if not url:
            with suppress(CatalogException):
                url = self._auth.get_endpoint(
                    self._session,
                    service_type="image",
                    interface=self._interface,
                    region_name=self._region,
                )
        if not url:
            raise Refused(_no_endpoint(self._region), tried="look up the IMS endpoint")
        return _VERSION.sub("", url.rstrip("/"))

    # --- what an answer means -------------------------------------------------------------

    def _create_failed(self, answer: Answer, failure: Failure) -> CloudProblem:
        """Sort by what may have been made: nothing, perhaps something, or nothing ever."""
        meaning = meaning_of(failure.code)
        if answer.status in _NOT_ACCEPTED or meaning is Meaning.TOO_MANY_CALLS:
            return self._unavailable(answer, failure)
        if not _says_no(answer.status):
            return OutcomeUnknown(_with_class(failure, ErrorClass.LOOK_FIRST), tried=answer.tried)
        if meaning is Meaning.UNSURE_AFTER_CREATE:
            return Refused(_with_class(failure, ErrorClass.LOOK_FIRST), tried=answer.tried)
        if failure.error_class is ErrorClass.RETRY:
            return self._unavailable(answer, failure)
        return Refused(failure, tried=answer.tried)

    def _read_failed(self, answer: Answer, failure: Failure) -> CloudProblem:
        """A read changes nothing, so it may be repeated unless the cloud plainly refuses."""
        refused = HTTPStatus.BAD_REQUEST <= answer.status < _SERVER_ERROR
        if refused and failure.error_class is not ErrorClass.RETRY:
            return Refused(failure, tried=answer.tried)
        return self._unavailable(answer, failure)

    def _unavailable(self, answer: Answer, failure: Failure) -> Unavailable:
        pause = responses.parse_retry_after(answer.headers.get("Retry-After"), now=self._now())
        retry = _with_class(failure, ErrorClass.RETRY)
        throttled = answer.status == HTTPStatus.TOO_MANY_REQUESTS
        by_status = ThrottleScope.ALL_CALLS if throttled else None
        if scope := _THROTTLES.get(meaning_of(failure.code), by_status):
            return Throttled(retry, scope=scope, tried=answer.tried, retry_after=pause)
        return Unavailable(retry, tried=answer.tried, retry_after=pause)


_SERVER_ERROR: Final = HTTPStatus.INTERNAL_SERVER_ERROR

_NO_PROJECT: Final = Failure(
    code="TOKEN.no-project",
    message="the token is for no project, and IMS is a service of projects",
    error_class=ErrorClass.BLOCKED,
    hint="Set project_name (e.g. eu-de or eu-de_myproject) in the cloud's entry of clouds.yaml.",
)
_TOO_MANY: Final = Failure(
    code="ANSWER.too-long",
    message=f"more than {MAX_PAGES * PAGE} images match",
    error_class=ErrorClass.RETRY,
    hint="The project has very many images of this name; delete some.",
)


def _no_endpoint(region: str | None) -> Failure:
    return Failure(
        code="CATALOG.no-image",
        message=f"IAM's catalogue has no image service in region {region or '(any)'}",
        error_class=ErrorClass.BLOCKED,
        hint="Check region_name in clouds.yaml, or set image_endpoint_override.",
    )


def _no_answer(exc: BaseException, method: str, path: str) -> CloudProblem:
    why = explain(exc)
    kind: type[CloudProblem] = NotSent
    error_class = ErrorClass.RETRY
    if why.sent:
        kind = OutcomeUnknown if method == "POST" else Unavailable
        error_class = ErrorClass.LOOK_FIRST if method == "POST" else ErrorClass.RETRY
    elif method != "POST":
        kind = Unavailable
    failure = Failure(
        code=why.code,
        message=f"{why.message}: {responses.clean(exc, longest=300)}",
        error_class=error_class,
        hint=(
            "It is looked up whether the request arrived."
            if kind is OutcomeUnknown
            else "Check the network, proxy and DNS of the worker; it is tried again."
        ),
    )
    return kind(failure, tried=_tried(method, path, "no answer", None))


def _unreadable(answer: Answer, exc: Exception) -> Failure:
    return Failure(
        code="ANSWER.unreadable",
        message=responses.clean(exc),
        error_class=ErrorClass.LOOK_FIRST,
        hint="It is looked up what became of the request; check what stands between us and IMS.",
        http_status=answer.status,
        request_id=responses.request_id_of(answer.headers),
    )


def _parsed(answer: Answer, parse: Callable[[bytes], T]) -> T:
    try:
        return parse(answer.body)
    except Unreadable as exc:
        failure = _with_class(_unreadable(answer, exc), ErrorClass.RETRY)
        raise Unavailable(failure, tried=answer.tried) from exc


def _credentials_refused(answer: Answer) -> bool:
    """By status or by code: IMS also refuses tokens with 400."""
    if answer.failure is None:
        return False
    by_code = answer.failure.error_class is ErrorClass.AUTH
    return answer.status == HTTPStatus.UNAUTHORIZED or (
        by_code and answer.status == HTTPStatus.BAD_REQUEST
    )


def _says_no(status: int) -> bool:
    """A 408 may come when the whole request is there, and a 302 or 303 when it was carried out."""
    if status in _ELSEWHERE:
        return True
    return HTTPStatus.BAD_REQUEST <= status < _SERVER_ERROR and status != HTTPStatus.REQUEST_TIMEOUT


def _no_such_image(status: int, code: str) -> bool:
    # The gateway's own 404 means a wrong address, not a missing image.
    if status == HTTPStatus.NOT_FOUND:
        return not from_gateway(code)
    return status == HTTPStatus.BAD_REQUEST and meaning_of(code) is Meaning.IMAGE_NOT_FOUND


def _with_class(failure: Failure, error_class: ErrorClass) -> Failure:
    return failure.model_copy(update={"error_class": error_class})


def _tried(method: str, path: str, result: str, request_id: str | None) -> str:
    request = f", request {request_id}" if request_id else ""
    return f"{method} {path} ({result}{request})"


def _part(value: str) -> str:
    return quote(value, safe="")
