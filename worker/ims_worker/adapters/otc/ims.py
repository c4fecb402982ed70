"""The IMS client: sends each create once and classifies every response by its effect."""

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Final, Literal, Protocol, TypeVar
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
    NameExists,
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
class ImsResponse:
    """A response with its error, if it has one."""

    status: int
    body: bytes = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    tried: str
    failure: Failure | None
    """None for 2xx."""


class ImsService:
    """The part of IMS an import uses, in the project of the credentials. Thread-safe."""

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
        """Send the create once; only refused credentials, which create nothing, cause a retry."""
        path, body = to_wire(request, import_id=import_id)
        response = self._request("POST", path, body=body)
        if response.failure is not None:
            raise self._create_failed(response, response.failure)
        try:
            return responses.parse_job_id(response.body)
        except Unreadable as exc:
            raise OutcomeUnknown(_unreadable(response, exc), tried=response.tried) from exc

    def read_job(self, job_id: JobId) -> CloudJob:
        path = (
            f"/v1/cloudimages/job/{_quoted(job_id)}"
            if self._job_api == "progress"
            else f"/v1/{_quoted(self.project())}/jobs/{_quoted(job_id)}"
        )
        response = self._request("GET", path)
        if response.failure is not None:
            unknown = meaning_of(response.failure.code) is Meaning.JOB_NOT_FOUND
            if unknown and response.status < _SERVER_ERROR:
                raise JobNotFound(response.failure, tried=response.tried)
            raise self._read_failed(response, response.failure)
        return _parsed(response, lambda body: responses.parse_job(body, asked=job_id))

    def read_image(self, image_id: ImageId) -> ImageFacts | None:
        response = self._request("GET", f"/v2/images/{_quoted(image_id)}")
        if response.failure is None:
            return _parsed(response, responses.parse_image)
        if self._is_gone(image_id, response, response.failure):
            return None
        raise self._read_failed(response, response.failure)

    def images_tagged(self, import_id: str) -> Sequence[ImageFacts]:
        """Images with the tag of this import. IMS writes `key.value` or `key=value` and takes
        `key=value` in a query. The result is filtered again in case IMS ignores the query."""
        tags = {f"{IMPORT_ID_TAG}{sign}{import_id}" for sign in "=."}
        images = self._images({"tag": f"{IMPORT_ID_TAG}={import_id}"})
        return [image for image in images if tags.intersection(image.tags)]

    def images_named(self, name: str, *, since: datetime | None = None) -> Sequence[ImageFacts]:
        moment = since.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if since else ""
        created = {"created_at": f"gte:{moment}"} if moment else {}
        images = self._images({"name": name, **created})
        # Timestamps of this format sort as text.
        return [
            image
            for image in images
            if image.name == name and (image.created_at is None or image.created_at >= moment)
        ]

    def private_images(self) -> Sequence[ImageFacts]:
        return self._images({"__imagetype": "private"})

    def delete_image(self, image_id: ImageId) -> None:
        response = self._request("DELETE", f"/v2/images/{_quoted(image_id)}")
        if response.failure is None or self._is_gone(image_id, response, response.failure):
            return
        raise self._read_failed(response, response.failure)

    def _is_gone(self, image_id: ImageId, response: ImsResponse, failure: Failure) -> bool:
        """Whether IMS states that it has no such image.

        The body of its 404 is not documented, and a proxy or gateway can answer 404 as well, so the
        list decides unless the code does.
        """
        if meaning_of(failure.code) is Meaning.IMAGE_NOT_FOUND:
            return response.status < _SERVER_ERROR
        if response.status != HTTPStatus.NOT_FOUND or from_gateway(failure.code):
            return False
        return all(image.id != image_id for image in self._images({"id": image_id}))

    def quota(self) -> Quota:
        response = self._request("GET", "/v1/cloudimages/quota")
        if response.failure is not None:
            raise self._read_failed(response, response.failure)
        return _parsed(response, responses.parse_quota)

    # --- one call -------------------------------------------------------------------------

    def _images(self, query: Mapping[str, str]) -> list[ImageFacts]:
        """All pages. The marker is the id of the last image; IMS does not mark the last page."""
        owner = self.project()
        images: dict[str, ImageFacts] = {}
        marker: dict[str, str] = {}
        for _ in range(MAX_PAGES):
            params = {"owner": str(owner), **query, "limit": str(PAGE), **marker}
            response = self._request("GET", "/v2/cloudimages", params=params)
            if response.failure is not None:
                raise self._read_failed(response, response.failure)
            page = _parsed(response, responses.parse_images)
            new = [image for image in page if image.id not in images]
            images.update({image.id: image for image in new})
            # Only an empty page is the last one; a service that ignores the marker repeats a page.
            if not new:
                return list(images.values())
            marker = {"marker": page[-1].id}
        raise Unavailable(_TOO_MANY, tried="GET /v2/cloudimages")

    def _request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Mapping[str, object] | None = None,
    ) -> ImsResponse:
        for _ in range(TRIES):
            response = self._send(method, path, params, body)
            if not _credentials_refused(response):
                return response
            # After the retry as well: the plugin learns that new credentials do not help.
            if not self._auth.invalidate():
                break
        assert response.failure is not None  # noqa: S101  # a refusal is one
        raise Refused(_with_class(response.failure, ErrorClass.AUTH), tried=response.tried)

    def _send(
        self,
        method: str,
        path: str,
        params: Mapping[str, str] | None,
        body: Mapping[str, object] | None,
    ) -> ImsResponse:
        headers = dict(self._auth.get_headers(self._session) or {})
        url = self._endpoint() + path
        try:
            raw = self._session.request(
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
                # keystoneauth's debug log contains headers and bodies.
                log=False,
            )
        except CALL_FAILED as exc:
            raise _no_response(exc, method, path) from exc
        status, content = int(raw.status_code), raw.content or b""
        failure = None
        request_id = responses.request_id_of(raw.headers)
        if not HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
            failure = responses.parse_failure(status, content, raw.headers)
            request_id = failure.request_id
        return ImsResponse(
            status=status,
            body=content,
            headers=raw.headers,
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

    # --- what a response means -------------------------------------------------------------

    def _create_failed(self, response: ImsResponse, failure: Failure) -> CloudProblem:
        """Classify by what IMS may have created: nothing yet, perhaps an image, or nothing ever."""
        meaning = meaning_of(failure.code)
        if response.status in _NOT_ACCEPTED or meaning is Meaning.TOO_MANY_CALLS:
            return self._unavailable(response, failure)
        if not _is_refusal(response.status):
            return OutcomeUnknown(_with_class(failure, ErrorClass.LOOK_FIRST), tried=response.tried)
        if meaning is Meaning.NAME_EXISTS:
            return NameExists(failure, tried=response.tried)
        if meaning is Meaning.UNSURE_AFTER_CREATE:
            return Refused(_with_class(failure, ErrorClass.LOOK_FIRST), tried=response.tried)
        if failure.error_class is ErrorClass.RETRY:
            return self._unavailable(response, failure)
        return Refused(failure, tried=response.tried)

    def _read_failed(self, response: ImsResponse, failure: Failure) -> CloudProblem:
        """A read changes nothing, so it may be repeated unless the cloud plainly refuses or
        something redirects it."""
        refused = HTTPStatus.MULTIPLE_CHOICES <= response.status < _SERVER_ERROR
        if refused and failure.error_class is not ErrorClass.RETRY:
            return Refused(failure, tried=response.tried)
        return self._unavailable(response, failure)

    def _unavailable(self, response: ImsResponse, failure: Failure) -> Unavailable:
        pause = responses.parse_retry_after(response.headers.get("Retry-After"), now=self._now())
        retry = _with_class(failure, ErrorClass.RETRY)
        throttled = response.status == HTTPStatus.TOO_MANY_REQUESTS
        by_status = ThrottleScope.ALL_CALLS if throttled else None
        if scope := _THROTTLES.get(meaning_of(failure.code), by_status):
            return Throttled(retry, scope=scope, tried=response.tried, retry_after=pause)
        return Unavailable(retry, tried=response.tried, retry_after=pause)


_SERVER_ERROR: Final = HTTPStatus.INTERNAL_SERVER_ERROR

_NO_PROJECT: Final = Failure(
    code="TOKEN.no-project",
    message="the credentials have no project, which IMS needs",
    error_class=ErrorClass.BLOCKED,
    hint="Set project_name (e.g. eu-de or eu-de_myproject) in the cloud's entry of clouds.yaml.",
)
_TOO_MANY: Final = Failure(
    code="ANSWER.too-long",
    message=f"more than {MAX_PAGES * PAGE} images match",
    error_class=ErrorClass.RETRY,
    hint="Delete images that are no longer needed: the project has too many to list.",
)


def _no_endpoint(region: str | None) -> Failure:
    return Failure(
        code="CATALOG.no-image",
        message=f"IAM's catalogue has no image service in region {region or '(any)'}",
        error_class=ErrorClass.BLOCKED,
        hint="Check region_name in clouds.yaml, or set image_endpoint_override.",
    )


def _no_response(exc: BaseException, method: str, path: str) -> CloudProblem:
    why = explain(exc)
    kind: type[CloudProblem] = NotSent
    error_class = why.error_class
    if why.sent:
        kind = OutcomeUnknown if method == "POST" else Unavailable
        error_class = ErrorClass.LOOK_FIRST if method == "POST" else error_class
    elif method != "POST":
        kind = Unavailable
    failure = Failure(
        code=why.code,
        message=f"{why.message}: {responses.clean(exc, longest=300)}",
        error_class=error_class,
        hint=(
            "ims-import checks whether the request arrived before it retries."
            if kind is OutcomeUnknown
            else why.hint
        ),
    )
    return kind(failure, tried=_tried(method, path, "no response", None))


def _unreadable(response: ImsResponse, exc: Exception) -> Failure:
    return Failure(
        code="ANSWER.unreadable",
        message=responses.clean(exc),
        error_class=ErrorClass.LOOK_FIRST,
        hint="ims-import checks the outcome before it retries. Check for a proxy in front of IMS.",
        http_status=response.status,
        request_id=responses.request_id_of(response.headers),
    )


def _parsed(response: ImsResponse, parse: Callable[[bytes], T]) -> T:
    try:
        return parse(response.body)
    except Unreadable as exc:
        failure = _with_class(_unreadable(response, exc), ErrorClass.RETRY)
        raise Unavailable(failure, tried=response.tried) from exc


def _credentials_refused(response: ImsResponse) -> bool:
    """By status or by code: IMS also refuses tokens with 400."""
    if response.failure is None:
        return False
    by_code = response.failure.error_class is ErrorClass.AUTH
    return response.status == HTTPStatus.UNAUTHORIZED or (
        by_code and response.status == HTTPStatus.BAD_REQUEST
    )


def _is_refusal(status: int) -> bool:
    """Whether IMS surely created nothing. A 408 may follow a complete request, and a 302 or 303
    a successful one."""
    if status in _ELSEWHERE:
        return True
    return HTTPStatus.BAD_REQUEST <= status < _SERVER_ERROR and status != HTTPStatus.REQUEST_TIMEOUT


def _with_class(failure: Failure, error_class: ErrorClass) -> Failure:
    return failure.model_copy(update={"error_class": error_class})


def _tried(method: str, path: str, result: str, request_id: str | None) -> str:
    request = f", request {request_id}" if request_id else ""
    return f"{method} {path} ({result}{request})"


def _quoted(value: str) -> str:
    return quote(value, safe="")
