"""The calls of IAM and IMS that the sandbox cloud knows, each as its reference shows it."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from ims_sandbox.cloud.faults import ANY_CALL, Fault, Kind, kind_of
from ims_sandbox.cloud.options import Project
from ims_sandbox.cloud.responses import (
    Refusal,
    Reply,
    admin_error,
    gateway_error,
    iam_error,
    ims_error,
)
from ims_sandbox.cloud.state import CloudState, Image, Job, Token
from ims_sandbox.cloud.validation import DATA, QUICK, SYSTEM, Variant, check_create

DEFAULT_LIMIT: Final = 500
MOST_IMAGES: Final = 1000
_FILTERS: Final = frozenset(
    {
        "owner", "name", "id", "tag", "status", "created_at", "limit", "marker", "visibility",
        "__imagetype", "sort_key", "sort_dir", "member_status", "enterprise_project_id",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    url: str
    """The cloud's own address, for catalogues and discovery."""
    fault: Fault | None = None

    def json(self) -> Any:
        try:
            return json.loads(self.body)
        except ValueError as exc:
            raise ims_error("IMG.0007", "The request body is no JSON.") from exc


@dataclass(frozen=True, slots=True)
class Call:
    """One call of the API: its name for faults and books, and what it does."""

    name: str
    method: str
    path: re.Pattern[str]
    act: Callable[..., Reply]
    counted: bool = True


@dataclass(frozen=True, slots=True)
class Api:
    """All calls on one set of books."""

    books: CloudState
    calls: tuple[Call, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "calls", tuple(self._calls()))

    def find(self, method: str, path: str) -> tuple[Call, dict[str, str]]:
        """The call of this address; raises the gateway's 404."""
        for call in self.calls:
            if call.method == method and (match := call.path.fullmatch(path)):
                return call, match.groupdict()
        raise gateway_error(404, "APIGW.0101", "The API does not exist.")

    def _calls(self) -> list[Call]:
        def call(name: str, method: str, path: str, act: Callable[..., Reply]) -> Call:
            return Call(name, method, re.compile(path), act, counted=name != "admin")

        jobs = r"(?P<job_id>[^/]+)"
        image = r"(?P<image_id>[^/]+)"
        return [
            call("discovery", "GET", "/", self.versions),
            call("discovery", "GET", "/v3/?", self.version),
            call("token", "POST", "/v3/auth/tokens", self.log_in),
            call("token", "GET", "/v3/auth/tokens", self.verify),
            call("token", "DELETE", "/v3/auth/tokens", self.log_out),
            call("create", "POST", SYSTEM.path, self.creates(SYSTEM)),
            call("create", "POST", DATA.path, self.creates(DATA)),
            call("create", "POST", QUICK.path, self.creates(QUICK)),
            call("job", "GET", rf"/v1/(?P<project>[^/]+)/jobs/{jobs}", self.job),
            call("job", "GET", f"/v1/cloudimages/job/{jobs}", self.job_progress),
            call("quota", "GET", "/v1/cloudimages/quota", self.quota),
            call("os-versions", "GET", "/v1/cloudimages/os_version", self.os_versions),
            call("list", "GET", "/v2/cloudimages", self.list),
            call("image", "GET", f"/v2/images/{image}", self.image),
            call("delete", "DELETE", f"/v2/images/{image}", self.delete),
            call(
                "list",
                "POST",
                "/v2/(?P<project>[^/]+)/images/resource_instances/action",
                self.list_tagged,
            ),
            call("admin", "GET", "/admin/books", lambda _: Reply(body=self.books.told())),
            call("admin", "POST", "/admin/faults", self.add_fault),
            call("admin", "DELETE", "/admin/faults", self.clear_faults),
            call("admin", "POST", "/admin/schedule", self.schedule),
            call("admin", "POST", "/admin/settings", self.change),
            call("admin", "GET", "/admin/tokens", self.good_tokens),
            call("admin", "POST", "/admin/revoke-tokens", self.revoke),
            call("admin", "POST", "/admin/reset", self.reset),
        ]

    # --- IAM --------------------------------------------------------------------------------

    def versions(self, request: Request) -> Reply:
        return Reply(status=300, body={"versions": {"values": [_version(request.url)]}})

    def version(self, request: Request) -> Reply:
        return Reply(body={"version": _version(request.url)})

    def log_in(self, request: Request) -> Reply:
        try:
            auth = request.json()["auth"]
            if "password" not in auth["identity"]["methods"]:
                raise iam_error(401, "Only the password method is known here.", "Unauthorized")
            user = auth["identity"]["password"]["user"]
            project = self._project(auth.get("scope", {}).get("project", {}))
            token = self.books.log_in(user["name"], user["password"], project)
        except (KeyError, TypeError, AttributeError) as exc:
            raise Refusal(
                Reply(
                    status=400,
                    body={"error_msg": "Invalid request body.", "error_code": "IAM.0011"},
                )
            ) from exc
        body = self._token(token, request, catalog="nocatalog" not in request.query)
        return Reply(status=201, body=body, headers={"X-Subject-Token": token.value})

    def _project(self, scope: Mapping[str, Any]) -> Project | None:
        return next(
            (
                project
                for project in self.books.options.projects
                if scope.get("id") == project.id or scope.get("name") == project.name
            ),
            None,
        )

    def _token(self, token: Token, request: Request, *, catalog: bool) -> dict[str, Any]:
        options = self.books.options
        domain = {"id": "d0" * 16, "name": options.domain}
        body: dict[str, Any] = {
            "methods": ["password"],
            "issued_at": _micro(token.issued),
            "expires_at": _micro(token.expires),
            "user": {"id": "a0" * 16, "name": token.project.user, "domain": domain},
            "project": {"id": token.project.id, "name": token.project.name, "domain": domain},
            "roles": [{"id": "0", "name": "te_admin"}],
        }
        if catalog:
            body["catalog"] = [
                _service("image", "glance", request.url, options.region),
                _service("object", "objectstorage", options.s3_endpoint or "", options.region),
            ]
        return {"token": body}

    def verify(self, request: Request) -> Reply:
        token = self.books.token(request.headers.get("X-Subject-Token"))
        return Reply(body=self._token(token, request, catalog=True))

    def log_out(self, request: Request) -> Reply:
        token = self.books.token(request.headers.get("X-Subject-Token"))
        with self.books.lock:
            del self.books.tokens[token.value]
        return Reply(status=204)

    # --- IMS --------------------------------------------------------------------------------

    def _who(self, request: Request) -> str:
        return self.books.token(request.headers.get("X-Auth-Token")).project.id

    def creates(self, variant: Variant) -> Callable[[Request], Reply]:
        def create(request: Request) -> Reply:
            project = self._who(request)
            body = check_create(variant, request.json())
            fail = request.fault.kind if request.fault and request.fault.kind.of_jobs else None
            return Reply(body={"job_id": self.books.create(project, variant, body, fail)})

        return create

    def job(self, request: Request, project: str, job_id: str) -> Reply:
        if self._who(request) != project:
            raise ims_error("IMG.0030", "The project does not match the token.", status=403)
        job = self.books.job(project, job_id)
        return Reply(body=self._job(job, percent=self.books.options.show_percent))

    def job_progress(self, request: Request, job_id: str) -> Reply:
        return Reply(body=self._job(self.books.job(self._who(request), job_id), percent=True))

    def _job(self, job: Job, *, percent: bool) -> dict[str, Any]:
        now = self.books.now()
        status, flaw = job.outcome(now)
        entities: dict[str, Any] = {}
        if status in ("RUNNING", "SUCCESS"):
            # The image's id shows long before the job has succeeded.
            entities = {"image_name": job.image_name, "image_id": job.image_id}
        if percent and status in ("RUNNING", "SUCCESS"):
            entities["process_percent"] = round(job.part_done(now), 2) if status == "RUNNING" else 1
        body: dict[str, Any] = {
            "job_id": job.id,
            "job_type": job.type,
            "begin_time": _milli(job.begun),
            "end_time": _milli(job.ended_at()) if status in ("SUCCESS", "FAIL") else "",
            "status": status,
            "error_code": None,
            "fail_reason": None,
            "entities": entities,
        }
        if flaw is not None:
            _tell_flaw(body, job, flaw.code, flaw.message)
        return body

    def image(self, request: Request, image_id: str) -> Reply:
        image = self.books.image(self._who(request), image_id)
        return Reply(body=self._image(image))

    def delete(self, request: Request, image_id: str) -> Reply:
        self.books.delete(self._who(request), image_id)
        return Reply(status=204)

    def list(self, request: Request) -> Reply:
        project = self._who(request)
        wanted = request.query
        if unknown := sorted(set(wanted) - _FILTERS):
            raise ims_error("IMG.0001", f"Unknown query parameter {', '.join(unknown)}.")
        if wanted.get("owner", project) != project:
            raise ims_error("IMG.0030", "The owner is another project.")
        # Private images are listed by owner or type only; anything else lists public ones.
        private = "owner" in wanted or wanted.get("__imagetype") == "private"
        with self.books.lock:
            images = [
                image
                for image in self.books.images.values()
                if private and image.project == project and self._fits(image, wanted)
            ]
        images.sort(key=lambda image: (image.created, image.id), reverse=True)
        ids = [image.id for image in images]
        start = ids.index(wanted["marker"]) + 1 if wanted.get("marker") in ids else 0
        limit = int(wanted.get("limit", DEFAULT_LIMIT))
        page = images[start : start + limit]
        return Reply(body={"images": [self._image(image) for image in page]})

    def _fits(self, image: Image, wanted: Mapping[str, str]) -> bool:
        if not self.books.listed(image):
            return False
        key, equals, value = wanted.get("tag", "").partition("=")
        if key and not equals:
            raise ims_error("IMG.0115", "A tag is queried as key=value.")
        return (
            wanted.get("name", image.name) == image.name
            and wanted.get("id", image.id) == image.id
            and wanted.get("status", image.status(self.books.now()))
            == image.status(self.books.now())
            and (not key or image.tags.get(key) == value)
            and _since(image.created, wanted.get("created_at"))
        )

    def list_tagged(self, request: Request, project: str) -> Reply:
        if self._who(request) != project:
            raise ims_error("IMG.0030", "The project does not match the token.")
        wanted = {tag["key"]: tag["values"] for tag in request.json().get("tags", [])}
        with self.books.lock:
            found = [
                image
                for image in self.books.images.values()
                if image.project == project
                and self.books.listed(image)
                and all(image.tags.get(key) in values for key, values in wanted.items())
            ]
        resources = [
            {
                "resource_id": image.id,
                "resource_name": image.name,
                "resource_detail": {"status": image.status(self.books.now())},
                "tags": [{"key": key, "value": value} for key, value in image.tags.items()],
            }
            for image in found
        ]
        return Reply(body={"total_count": len(resources), "resources": resources})

    def _image(self, image: Image) -> dict[str, Any]:
        now, body = self.books.now(), image.body
        iso = body.get("type") == "IsoImage"
        return {
            "id": image.id,
            "name": image.name,
            "status": image.status(now),
            "owner": image.project,
            "visibility": "private",
            "schema": "/v2/schemas/image",
            "self": f"/v2/images/{image.id}",
            "file": f"/v2/images/{image.id}/file",
            "container_format": "bare",
            "disk_format": "iso" if iso else "zvhd2",
            "min_disk": body["min_disk"],
            "min_ram": body.get("min_ram", 0),
            "max_ram": str(body.get("max_ram", "")),
            "protected": False,
            "created_at": _second(image.created),
            "updated_at": _second(now),
            "tags": [f"{key}={value}" for key, value in image.tags.items()],
            "size": 0,
            "virtual_size": None,
            "enterprise_project_id": body.get("enterprise_project_id", "0"),
            "hw_firmware_type": body.get("hw_firmware_type", "bios"),
            "virtual_env_type": "IsoImage" if iso else "FusionCompute",
            "__isregistered": "true",
            "__imagetype": "private",
            "__image_source_type": "uds",
            "__image_size": "1073741824",
            "__os_type": body.get("os_type", "Linux"),
            "__os_version": body.get("os_version", "Other Linux(64 bit)"),
            "__os_bit": "64",
            "__platform": "Other",
            "__description": body.get("description", ""),
            "__data_origin": f"file,{body['image_url']}",
            "__root_origin": "file",
        }

    def quota(self, request: Request) -> Reply:
        project, now = self._who(request), self.books.now()
        with self.books.lock:
            used = self.books.kept(project, now)
        quota = {"type": "image", "used": used, "quota": self.books.options.quota or MOST_IMAGES}
        return Reply(body={"quotas": {"resources": [quota | {"min": 1, "max": MOST_IMAGES}]}})

    def os_versions(self, request: Request) -> Reply:
        self._who(request)
        version = {
            "platform": "Ubuntu",
            "os_version_key": "Ubuntu 18.04 server 64bit",
            "os_version": "Ubuntu 18.04 server 64bit",
            "os_bit": 64,
            "os_type": "Linux",
        }
        return Reply(body=[{"platform": "Ubuntu", "version_list": [version]}])

    # --- admin ------------------------------------------------------------------------------

    def add_fault(self, request: Request) -> Reply:
        with _readable():
            given = request.json()
            fault = Fault(**given | {"kind": kind_of(given.get("kind"))})
            known = {call.name for call in self.calls if call.counted} | {ANY_CALL}
            if fault.call not in known:
                names = ", ".join(sorted(known))
                raise ValueError(f"call: must be one of {names}; given: {fault.call!r}")
        self.books.faults.add(fault)
        return Reply(status=204)

    def clear_faults(self, _request: Request) -> Reply:
        self.books.faults.clear()
        return Reply(status=204)

    def schedule(self, request: Request) -> Reply:
        with _readable():
            self.books.faults.schedule(**request.json())
        return Reply(status=204)

    def change(self, request: Request) -> Reply:
        with _readable():
            self.books.change(**request.json())
        return Reply(status=204)

    def good_tokens(self, _request: Request) -> Reply:
        """For tests that look whether one of them is where it must not be."""
        with self.books.lock:
            return Reply(body={"tokens": list(self.books.tokens)})

    def revoke(self, _request: Request) -> Reply:
        return Reply(body={"revoked": self.books.revoke()})

    def reset(self, _request: Request) -> Reply:
        self.books.reset()
        return Reply(status=204)


@contextmanager
def _readable() -> Iterator[None]:
    """Who tells the sandbox something wrong learns what; the cloud's own calls never do this."""
    try:
        yield
    except (AttributeError, TypeError, ValueError) as exc:
        raise admin_error(exc) from exc


def parse_address(address: str) -> tuple[str, dict[str, str]]:
    """Path and query of a request line."""
    parts = urlsplit(address)
    query = parse_qs(parts.query, keep_blank_values=True)
    return parts.path, {name: values[-1] for name, values in query.items()}


def _tell_flaw(body: dict[str, Any], job: Job, code: str, message: str) -> None:
    """A failed job in one of the three shapes; no public sample tells which one OTC uses."""
    match job.fail_shape:
        case Kind.FAIL_ENTITIES:
            body["entities"] = {"image_name": job.image_name, "error_code": code, "error": message}
        case Kind.FAIL_BARE:
            body |= {"error_code": code, "fail_reason": "", "entities": {}}
        case _:
            body |= {
                "error_code": code,
                "fail_reason": message,
                "entities": {"image_name": job.image_name},
            }


def _since(created: float, wanted: str | None) -> bool:
    if wanted is None:
        return True
    operator, _, when = wanted.partition(":")
    try:
        at = datetime.fromisoformat(when).timestamp()
    except ValueError as exc:
        raise ims_error("IMG.0001", "created_at is operator:UTC time.") from exc
    # Images know their time by the second only.
    second = int(created)
    return {"gte": second >= at, "gt": second > at, "lte": second <= at, "lt": second < at}.get(
        operator, False
    )


def _version(url: str) -> dict[str, Any]:
    return {
        "id": "v3.14",
        "status": "stable",
        "updated": "2020-04-07T00:00:00Z",
        "links": [{"rel": "self", "href": f"{url}/v3/"}],
        "media-types": [{"base": "application/json", "type": "application/json"}],
    }


def _service(kind: str, name: str, url: str, region: str) -> dict[str, Any]:
    endpoint = {"id": f"e-{kind}", "interface": "public", "region": region, "region_id": region}
    return {"type": kind, "name": name, "id": f"s-{kind}", "endpoints": [endpoint | {"url": url}]}


def _at(when: float) -> datetime:
    return datetime.fromtimestamp(when, UTC)


def _micro(when: float) -> str:
    return f"{_at(when):%Y-%m-%dT%H:%M:%S.%f}Z"


def _milli(when: float) -> str:
    return f"{_micro(when)[:-4]}Z"


def _second(when: float) -> str:
    return f"{_at(when):%Y-%m-%dT%H:%M:%S}Z"
