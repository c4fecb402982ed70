"""The real IMS client without sockets: a requests adapter answers its calls."""

import io
import json
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from http.client import RemoteDisconnected
from typing import Any

import requests
from keystoneauth1.session import Session
from requests.adapters import BaseAdapter
from requests.structures import CaseInsensitiveDict
from urllib3.exceptions import ProtocolError

from ims_sandbox.cloud import CloudOptions
from ims_sandbox.cloud.api import Api, Request
from ims_sandbox.cloud.responses import Reply as SandboxReply
from ims_sandbox.cloud.state import CloudState
from ims_worker.adapters.otc.auth import SharedToken, SharedTokenAuth
from ims_worker.adapters.otc.http import open_session
from ims_worker.adapters.otc.ims import Authenticator, ImsService
from ims_worker.adapters.otc.tokens import Now

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
PROJECT = "ac234de25c6741d2b1273da49eea1b9e"
IMS_URL = "https://ims.eu-de.example"


def a_state(name: str = "token-1", url: str = IMS_URL, *, project: bool = True) -> str:
    """Keystoneauth's auth state after a login that returned this token, valid for a day."""
    body = json.loads(_token_body(url))
    if not project:
        del body["token"]["project"]
    return json.dumps({"auth_token": name, "body": body})


@cache
def _token_body(url: str) -> bytes:
    options = CloudOptions(project_id=PROJECT, region="eu-de")
    return log_in(Api(CloudState(options, NOON.timestamp)), url).content


def log_in(api: Api, url: str = IMS_URL) -> SandboxReply:
    """The sandbox's response to a login."""
    options = api.state.options
    user = {"name": options.user, "password": options.password}
    auth = {
        "identity": {"methods": ["password"], "password": {"user": user}},
        "scope": {"project": {"id": options.project_id}},
    }
    body = json.dumps({"auth": auth}).encode()
    return api.respond(
        Request(method="POST", path="/v3/auth/tokens", query={}, headers={}, body=body, url=url)
    )


class Logins:
    """An IAM that returns these tokens in turn; the last one stays."""

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

    def send(  # type: ignore[override]  # accepts all arguments of requests
        self, request: requests.PreparedRequest, **_kwargs: Any
    ) -> requests.Response:
        self.calls.append(request)
        reply = self.reply(request)
        if isinstance(reply, Exception):
            raise reply
        status, body, headers = reply if len(reply) == 3 else (*reply, {})
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
    """The connection closed after the request had left."""
    cause = RemoteDisconnected("Remote end closed connection without response")
    return requests.ConnectionError(ProtocolError("Connection aborted.", cause))


def client_on(wire: Wire, auth: Authenticator | None = None, **options: Any) -> ImsService:
    return ImsService(
        session_on(wire), auth or two_tokens(), region="eu-de", now=lambda: NOON, **options
    )


def session_on(wire: Wire) -> Session:
    """The client's session with this adapter in place of the network."""
    session = open_session(connect_timeout_s=1, read_timeout_s=1)
    session.session.mount("https://", wire)
    return session
