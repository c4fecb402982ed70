"""A tiny IMS behind the client's transport: real payloads, no socket."""

import io
import itertools
import json
from collections.abc import Callable
from datetime import UTC, datetime
from http.client import RemoteDisconnected
from typing import Any
from urllib.parse import parse_qs, urlsplit

import requests
from requests.adapters import BaseAdapter
from requests.structures import CaseInsensitiveDict
from urllib3.exceptions import ProtocolError

from ims_worker.adapters.otc.auth import SharedToken, SharedTokenAuth
from ims_worker.adapters.otc.http import open_session
from ims_worker.adapters.otc.ims import Authenticator, ImsService
from ims_worker.adapters.otc.tokens import Now

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
PROJECT = "ac234de25c6741d2b1273da49eea1b9e"
TOKEN_BODY: dict[str, Any] = {
    "token": {
        "methods": ["password"],
        "expires_at": "2026-03-02T12:00:00.000000Z",
        "issued_at": "2026-03-01T12:00:00.000000Z",
        "user": {"id": "u", "name": "user A", "domain": {"id": "d", "name": "domain A"}},
        "project": {"id": PROJECT, "name": "eu-de", "domain": {"id": "d", "name": "domain A"}},
        "roles": [{"id": "roleid1", "name": "role1"}],
        "catalog": [
            {
                "type": "image",
                "name": "glance",
                "id": "c1",
                "endpoints": [
                    {
                        "id": "e1",
                        "interface": "public",
                        "region": "eu-de",
                        "region_id": "eu-de",
                        "url": "https://ims.eu-de.example",
                    }
                ],
            }
        ],
    }
}


def a_state(name: str = "token-1", url: str | None = None, *, project: bool = True) -> str:
    """The auth state of keystoneauth after a login that gave this token."""
    body = json.loads(json.dumps(TOKEN_BODY))
    if url:
        body["token"]["catalog"][0]["endpoints"][0]["url"] = url
    if not project:
        del body["token"]["project"]
    return json.dumps({"auth_token": name, "body": body})


class Logins:
    """An IAM that hands out these tokens in turn; the last one stays."""

    def __init__(self, *states: str) -> None:
        self._states = list(states)
        self.count = 0

    def __call__(self) -> str:
        self.count += 1
        return self._states.pop(0) if len(self._states) > 1 else self._states[0]


def an_auth(*states: str, now: Now = lambda: NOON) -> SharedTokenAuth:
    """Authenticates with the tokens of these logins, without Redis."""
    return SharedTokenAuth(SharedToken(Logins(*states), None, now=now))


def two_tokens() -> SharedTokenAuth:
    return an_auth(a_state("token-1"), a_state("token-2"))


Reply = tuple[int, Any] | tuple[int, Any, dict[str, str]]


class Wire(BaseAdapter):
    """Answers each request by a function, or fails as a network does."""

    def __init__(self, reply: Callable[[requests.PreparedRequest], Reply | Exception]) -> None:
        super().__init__()
        self.reply = reply
        self.calls: list[requests.PreparedRequest] = []

    def send(  # type: ignore[override]  # takes all that requests gives
        self, request: requests.PreparedRequest, **_kwargs: Any
    ) -> requests.Response:
        self.calls.append(request)
        said = self.reply(request)
        if isinstance(said, Exception):
            raise said
        status, body, headers = said if len(said) == 3 else (*said, {})
        response = requests.Response()
        response.status_code = status
        response.headers = CaseInsensitiveDict(headers)
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        response.raw = io.BytesIO(content)
        response.url = str(request.url)
        response.request = request
        return response

    def close(self) -> None:
        pass


def dropped() -> requests.ConnectionError:
    """The connection ended after the request had left."""
    gone = RemoteDisconnected("Remote end closed connection without response")
    return requests.ConnectionError(ProtocolError("Connection aborted.", gone))


def client_on(wire: Wire, auth: Authenticator | None = None, **options: Any) -> ImsService:
    session = open_session(connect_timeout_s=1, read_timeout_s=1)
    session.session.mount("https://", wire)
    return ImsService(session, auth or two_tokens(), region="eu-de", now=lambda: NOON, **options)


class TinyIms:
    """IMS in its own words, with the same levers as FakeImageService."""

    def __init__(self, *, looks: int = 2) -> None:
        self.looks = looks
        self.images: dict[str, dict[str, Any]] = {}
        self.creates = 0
        self._jobs: dict[str, list[Any]] = {}
        self._numbers = itertools.count(1)
        self._next_create: Reply | Exception | None = None
        self._made = False
        self._next_job: tuple[str, str] | None = None
        self._next_read: Reply | Exception | None = None

    def busy_once(self) -> None:
        message = "The number of tasks exceeds the flow control limit."
        self._next_create = (400, {"error": {"message": message, "code": "IMG.0060"}})

    def refuse_once(self) -> None:
        message = "The imagetype is invalid."
        self._next_create = (400, {"error": {"message": message, "code": "IMG.0024"}})

    def lose_next_answer(self, *, made: bool = True) -> None:
        self._next_create = dropped()
        self._made = made

    def fail_next_job(self) -> None:
        self._next_job = ("IMG.0057", "The image file is empty or in incorrect format.")

    def break_next_read(self) -> None:
        self._next_read = (504, {"message": "Wait response timeout.", "request_id": "r-42"})

    def forget_jobs(self) -> None:
        self._jobs.clear()

    def __call__(self, request: requests.PreparedRequest) -> Reply | Exception:
        parts = urlsplit(str(request.url))
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        broken, self._next_read = self._next_read, None
        if request.method == "POST":
            return self._create(json.loads(request.body or b"{}"))
        if request.method == "DELETE":
            return self._delete(parts.path.rpartition("/")[2])
        return broken or self._read(parts.path, query)

    def _read(self, path: str, query: dict[str, str]) -> Reply:
        match path.strip("/").split("/"):
            case ["v1", project, "jobs", job_id] if project == PROJECT:
                return self._job(job_id)
            case ["v2", "images", image_id]:
                none = {"error": {"message": "no such image", "code": "IMG.0027"}}
                image = self.images.get(image_id)
                return (404 if image is None else 200, image or none)
            case ["v2", "cloudimages"]:
                return 200, {"images": self._listed(query)}
            case ["v1", "cloudimages", "quota"]:
                row = {"type": "image", "used": len(self.images), "quota": 100}
                return 200, {"quotas": {"resources": [row]}}
        return 404, {"error_msg": "API not found", "error_code": "APIGW.0101"}

    def _delete(self, image_id: str) -> Reply:
        if self.images.pop(image_id, None) is None:
            return 404, {"error": {"message": "no such image", "code": "IMG.0027"}}
        return 204, {}

    def _create(self, body: dict[str, Any]) -> Reply | Exception:
        self.creates += 1
        problem, self._next_create = self._next_create, None
        made, self._made = problem is None or self._made, False
        number = next(self._numbers)
        if made:
            self._jobs[f"job-{number}"] = [f"img-{number}", self.looks, self._next_job]
            if self._next_job is None:
                self.images[f"img-{number}"] = _image(f"img-{number}", body)
            self._next_job = None
        return problem or (200, {"job_id": f" job-{number}"})

    def _job(self, job_id: str) -> Reply:
        if job_id not in self._jobs:
            return 400, {"error": {"message": "Failed to query the task.", "code": "IMG.0023"}}
        image_id, looks, failure = self._jobs[job_id]
        self._jobs[job_id][1] -= 1
        said: dict[str, Any] = {"job_id": job_id, "job_type": "imsImportImageJob", "end_time": ""}
        said |= {"error_code": None, "fail_reason": None, "entities": {}}
        if looks > 0:
            return 200, said | {"status": "INIT" if looks == self.looks else "RUNNING"}
        if failure:
            return 200, said | {
                "status": "FAIL",
                "error_code": failure[0],
                "fail_reason": failure[1],
            }
        self.images[image_id]["status"] = "active"
        return 200, said | {"status": "SUCCESS", "entities": {"image_id": image_id}}

    def _listed(self, query: dict[str, str]) -> list[dict[str, Any]]:
        since = query.get("created_at", "gte:").removeprefix("gte:")
        return [
            image
            for image in self.images.values()
            if query.get("owner") == image["owner"]
            and query.get("name", image["name"]) == image["name"]
            and query.get("tag", image["tags"][-1]) in image["tags"]
            and image["created_at"] >= since
        ]


def _image(image_id: str, body: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": image_id,
        "name": body["name"],
        "owner": PROJECT,
        "status": "queued",
        "min_disk": body["min_disk"],
        "__image_size": "1073741824",
        "__data_origin": f"file,{body['image_url']}",
        "created_at": "2026-03-01T12:00:00Z",
        "tags": [f"{tag['key']}={tag['value']}" for tag in body["image_tags"]],
    }
