"""The IAM and IMS calls of the sandbox cloud, as in their API references; no sockets."""

import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from ims_sandbox.cloud.faults import (
    ANY_CALL,
    HEADER,
    Fault,
    Kind,
    fail_after,
    fail_before,
    parse_kind,
)
from ims_sandbox.cloud.files import Flaw
from ims_sandbox.cloud.options import Project
from ims_sandbox.cloud.responses import (
    NO_CONTENT,
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
ADMIN: Final = "admin"
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
    """The cloud's base URL, used in the catalogue and in discovery."""
    fault: Fault | None = None

    def json(self) -> Any:
        """The parsed body; IMS's error code if it is not JSON."""
        try:
            return json.loads(self.body)
        except ValueError as exc:
            raise ims_error("IMG.0007", "The request body is not valid JSON.") from exc


@dataclass(frozen=True, slots=True)
class Call:
    """One API call: its name in faults and counters, its address and its handler."""

    name: str
    method: str
    path: str
    handle: Callable[..., Reply | None]
    """None means 204."""


class Api:
    """All calls on one cloud state."""

    def __init__(self, state: CloudState) -> None:
        self.state = state
        job, image = "(?P<job_id>[^/]+)", "(?P<image_id>[^/]+)"
        self.calls = (
            Call("discovery", "GET", "/", self.versions),
            Call("discovery", "GET", "/v3/?", self.version),
            Call("token", "POST", "/v3/auth/tokens", self.log_in),
            Call("create", "POST", SYSTEM.path, partial(self.create, SYSTEM)),
            Call("create", "POST", DATA.path, partial(self.create, DATA)),
            Call("create", "POST", QUICK.path, partial(self.create, QUICK)),
            Call("job", "GET", f"/v1/(?P<project>[^/]+)/jobs/{job}", self.job),
            Call("job", "GET", f"/v1/cloudimages/job/{job}", self.job_progress),
            Call("quota", "GET", "/v1/cloudimages/quota", self.quota),
            Call("list", "GET", "/v2/cloudimages", self.list),
            Call("image", "GET", f"/v2/images/{image}", self.image),
            Call("delete", "DELETE", f"/v2/images/{image}", self.delete),
            Call(ADMIN, "GET", "/admin/books", lambda _: Reply(body=state.report())),
            Call(ADMIN, "POST", "/admin/faults", self.add_fault),
            Call(ADMIN, "DELETE", "/admin/faults", lambda _: state.faults.clear()),
            Call(ADMIN, "POST", "/admin/schedule", lambda r: state.faults.schedule(**r.json())),
            Call(ADMIN, "POST", "/admin/settings", lambda r: state.change(**r.json())),
            Call(ADMIN, "GET", "/admin/tokens", self.valid_tokens),
            Call(ADMIN, "POST", "/admin/revoke-tokens", self.revoke),
            Call(ADMIN, "POST", "/admin/reset", lambda _: state.reset()),
        )

    def respond(self, request: Request) -> Reply:
        """Handle a request with the fault that is due; raises Dropped for a lost response."""
        try:
            call, arguments = self._find(request.method, request.path)
            if call.name == ADMIN:
                return self._administer(call, request)
            fault = self._next_fault(call, request)
            if fault is not None:
                fail_before(fault)
            reply = call.handle(replace(request, fault=fault), **arguments) or NO_CONTENT
        except Refusal as refusal:
            return refusal.reply
        return reply if fault is None else fail_after(fault, reply)

    def _find(self, method: str, path: str) -> tuple[Call, dict[str, str]]:
        for call in self.calls:
            if call.method == method and (match := re.fullmatch(call.path, path)):
                return call, match.groupdict()
        raise gateway_error(404, "APIGW.0101", "The API does not exist.")

    def _administer(self, call: Call, request: Request) -> Reply:
        try:
            return call.handle(request) or NO_CONTENT
        except (AttributeError, TypeError, ValueError) as exc:
            raise admin_error(str(exc)) from exc

    def _next_fault(self, call: Call, request: Request) -> Fault | None:
        with self.state.lock:
            self.state.calls[call.name] += 1
        time.sleep(self.state.options.latency_s)
        return self.state.faults.next_for(call.name, request.headers.get(HEADER))

    # --- IAM --------------------------------------------------------------------------------

    def versions(self, request: Request) -> Reply:
        return Reply(status=300, body={"versions": {"values": [_version(request.url)]}})

    def version(self, request: Request) -> Reply:
        return Reply(body={"version": _version(request.url)})

    def log_in(self, request: Request) -> Reply:
        try:
            auth = request.json()["auth"]
            if "password" not in auth["identity"]["methods"]:
                raise iam_error(401, "Only the password method is supported.", "Unauthorized")
            user = auth["identity"]["password"]["user"]
            project = self._project(auth.get("scope", {}).get("project", {}))
            token = self.state.log_in(user["name"], user["password"], project)
        except (KeyError, TypeError, AttributeError) as exc:
            raise Refusal(
                Reply(
                    status=400,
                    body={"error_msg": "Invalid request body.", "error_code": "IAM.0011"},
                )
            ) from exc
        return Reply(
            status=201,
            body=self._token(token, request),
            headers={"X-Subject-Token": token.value},
        )

    def _project(self, scope: Mapping[str, object]) -> Project | None:
        return next(
            (
                project
                for project in self.state.options.projects
                if scope.get("id") == project.id or scope.get("name") == project.name
            ),
            None,
        )

    def _token(self, token: Token, request: Request) -> dict[str, object]:
        options = self.state.options
        domain = {"id": "d0" * 16, "name": options.domain}
        body: dict[str, object] = {
            "methods": ["password"],
            "issued_at": _time(token.issued, "microseconds"),
            "expires_at": _time(token.expires, "microseconds"),
            "user": {"id": "a0" * 16, "name": token.project.user, "domain": domain},
            "project": {"id": token.project.id, "name": token.project.name, "domain": domain},
            "roles": [{"id": "0", "name": "te_admin"}],
        }
        if "nocatalog" not in request.query:
            body["catalog"] = [
                _service("image", "glance", request.url, options.region),
                _service("object", "objectstorage", options.s3_endpoint or "", options.region),
            ]
        return {"token": body}

    # --- IMS --------------------------------------------------------------------------------

    def _project_id(self, request: Request) -> str:
        return self.state.token(request.headers.get("X-Auth-Token")).project.id

    def create(self, variant: Variant, request: Request) -> Reply:
        project = self._project_id(request)
        body = check_create(variant, request.json())
        fault = request.fault if request.fault and request.fault.kind.of_jobs else None
        return Reply(body={"job_id": self.state.create(project, variant, body, fault)})

    def job(self, request: Request, project: str, job_id: str) -> Reply:
        if self._project_id(request) != project:
            raise ims_error("IMG.0030", "The project does not match the token.", status=403)
        job = self.state.job(project, job_id)
        return Reply(body=self._job(job, percent=self.state.options.show_percent))

    def job_progress(self, request: Request, job_id: str) -> Reply:
        job = self.state.job(self._project_id(request), job_id)
        return Reply(body=self._job(job, percent=True))

    def _job(self, job: Job, *, percent: bool) -> dict[str, object]:
        now = self.state.now()
        status, flaw = job.outcome(now)
        entities: dict[str, object] = {}
        if status in ("RUNNING", "SUCCESS"):
            # IMS reports the image id long before the job succeeds.
            entities = {"image_name": job.image.name, "image_id": job.image.id}
            if percent:
                entities["process_percent"] = round(job.progress(now), 2)
        body: dict[str, object] = {
            "job_id": job.id,
            "job_type": job.type,
            "begin_time": _time(job.begun, "milliseconds"),
            "end_time": "",
            "status": status,
            "error_code": None,
            "fail_reason": None,
            "entities": entities,
        }
        if status in ("SUCCESS", "FAIL"):
            body["end_time"] = _time(job.ended_at(), "milliseconds")
        if flaw is not None:
            body |= _failure(job, flaw)
        return body

    def image(self, request: Request, image_id: str) -> Reply:
        image = self.state.image(self._project_id(request), image_id)
        return Reply(body=self._image(image))

    def delete(self, request: Request, image_id: str) -> None:
        self.state.delete(self._project_id(request), image_id)

    def list(self, request: Request) -> Reply:
        project = self._project_id(request)
        query = request.query
        if unknown := sorted(set(query) - _FILTERS):
            raise ims_error("IMG.0001", f"Unknown query parameter {', '.join(unknown)}.")
        if query.get("owner", project) != project:
            raise ims_error("IMG.0030", "The owner is another project.")
        # IMS lists private images only by owner or type; other queries list public images.
        private = "owner" in query or query.get("__imagetype") == "private"
        with self.state.lock:
            images = [
                image
                for image in self.state.images.values()
                if private and image.project == project and self._matches(image, query)
            ]
        images.sort(key=lambda image: (image.created, image.id), reverse=True)
        ids = [image.id for image in images]
        start = ids.index(query["marker"]) + 1 if query.get("marker") in ids else 0
        limit = int(query.get("limit", DEFAULT_LIMIT))
        page = images[start : start + limit]
        return Reply(body={"images": [self._image(image) for image in page]})

    def _matches(self, image: Image, query: Mapping[str, str]) -> bool:
        if not self.state.listed(image):
            return False
        key, equals, value = query.get("tag", "").partition("=")
        if key and not equals:
            raise ims_error("IMG.0115", "A tag is queried as key=value.")
        status = image.status(self.state.now())
        return (
            query.get("name", image.name) == image.name
            and query.get("id", image.id) == image.id
            and query.get("status", status) == status
            and (not key or image.tags.get(key) == value)
            and _in_period(image.created, query.get("created_at"))
        )

    def _image(self, image: Image) -> dict[str, object]:
        now, body = self.state.now(), image.body
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
            "created_at": _time(image.created, "seconds"),
            "updated_at": _time(now, "seconds"),
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
        project, now = self._project_id(request), self.state.now()
        with self.state.lock:
            used = self.state.quota_used(project, now)
        quota = {"type": "image", "used": used, "quota": self.state.options.quota or MOST_IMAGES}
        return Reply(body={"quotas": {"resources": [quota | {"min": 1, "max": MOST_IMAGES}]}})

    # --- admin ------------------------------------------------------------------------------

    def add_fault(self, request: Request) -> None:
        body = request.json()
        fault = Fault(**body | {"kind": parse_kind(body.get("kind"))})
        known = {call.name for call in self.calls} - {ADMIN} | {ANY_CALL}
        if fault.call not in known:
            names = ", ".join(sorted(known))
            raise admin_error(f"call: must be one of {names}; given: {fault.call!r}")
        self.state.faults.add(fault)

    def valid_tokens(self, _request: Request) -> Reply:
        """For tests that search logs and databases for leaked tokens."""
        with self.state.lock:
            return Reply(body={"tokens": list(self.state.tokens)})

    def revoke(self, _request: Request) -> Reply:
        return Reply(body={"revoked": self.state.revoke()})


def parse_address(address: str) -> tuple[str, dict[str, str]]:
    """Path and query of a request target."""
    parts = urlsplit(address)
    query = parse_qs(parts.query, keep_blank_values=True)
    return parts.path, {name: values[-1] for name, values in query.items()}


def _failure(job: Job, flaw: Flaw) -> dict[str, object]:
    """A failed job in one of three shapes; no public sample shows which one OTC uses."""
    name = {"image_name": job.image.name}
    match job.fail_shape:
        case Kind.FAIL_ENTITIES:
            return {"entities": {**name, "error_code": flaw.code, "error": flaw.message}}
        case Kind.FAIL_BARE:
            return {"error_code": flaw.code, "fail_reason": "", "entities": {}}
        case _:
            return {"error_code": flaw.code, "fail_reason": flaw.message, "entities": name}


def _in_period(created: float, created_at: str | None) -> bool:
    if created_at is None:
        return True
    operator, _, when = created_at.partition(":")
    try:
        at = datetime.fromisoformat(when).timestamp()
    except ValueError as exc:
        raise ims_error("IMG.0001", "created_at must be OPERATOR:UTC time.") from exc
    # IMS stores the creation time in whole seconds.
    second = int(created)
    return {"gte": second >= at, "gt": second > at, "lte": second <= at, "lt": second < at}.get(
        operator, False
    )


def _version(url: str) -> dict[str, object]:
    return {
        "id": "v3.14",
        "status": "stable",
        "updated": "2020-04-07T00:00:00Z",
        "links": [{"rel": "self", "href": f"{url}/v3/"}],
        "media-types": [{"base": "application/json", "type": "application/json"}],
    }


def _service(kind: str, name: str, url: str, region: str) -> dict[str, object]:
    endpoint = {"id": f"e-{kind}", "interface": "public", "region": region, "region_id": region}
    return {"type": kind, "name": name, "id": f"s-{kind}", "endpoints": [endpoint | {"url": url}]}


def _time(when: float, timespec: str) -> str:
    return f"{datetime.fromtimestamp(when, UTC).replace(tzinfo=None).isoformat(timespec=timespec)}Z"
