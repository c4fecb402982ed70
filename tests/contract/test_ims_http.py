"""How the client classifies each response, and that it sends each create once."""

import hashlib
import hmac
import ssl
import threading
from collections.abc import Callable
from typing import Any

import pytest
import requests
from builders import a_request
from ims_client import (
    NOON,
    PROJECT,
    Logins,
    Reply,
    Wire,
    a_state,
    an_auth,
    client_on,
    dropped,
)
from keystoneauth1.plugin import BaseAuthPlugin
from keystoneauth1.session import Session
from urllib3 import HTTPSConnectionPool
from urllib3.exceptions import (
    ConnectTimeoutError,
    MaxRetryError,
    NameResolutionError,
    NewConnectionError,
    ProtocolError,
    ReadTimeoutError,
)

from ims_config.records import ErrorClass
from ims_worker.adapters.otc.auth import SharedToken, SharedTokenAuth
from ims_worker.adapters.otc.ims import MAX_PAGES, PAGE, ImsService
from ims_worker.adapters.otc.tokens import read_state
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
from ims_worker.ports import ImageId, JobId, JobStatus

POOL = HTTPSConnectionPool("ims.example")
JOB = {"job_id": "j", "status": "RUNNING", "entities": {"process_percent": 0.4}}


def answering(*replies: Reply | Exception) -> Wire:
    """A transport with these responses in turn; the last one repeats."""
    waiting = list(replies)
    return Wire(lambda _request: waiting.pop(0) if len(waiting) > 1 else waiting[0])


def ims(code: str, message: str = "m") -> dict[str, Any]:
    return {"error": {"message": message, "code": code}}


def failed_create(reply: Reply | Exception) -> tuple[CloudProblem, Wire]:
    wire = answering(reply)
    with pytest.raises(CloudProblem) as caught:
        client_on(wire).create_image(a_request(), import_id="i")
    return caught.value, wire


def unconnected(reason: Exception) -> requests.ConnectionError:
    return requests.ConnectionError(MaxRetryError(POOL, "/", reason))


NO_CONNECTION: list[Exception] = [
    unconnected(NewConnectionError(POOL, "refused")),  # type: ignore[arg-type]  # only its text counts
    unconnected(NameResolutionError("ims.example", POOL, OSError("no name"))),  # type: ignore[arg-type]  # as above
    requests.ConnectTimeout(MaxRetryError(POOL, "/", ConnectTimeoutError(POOL, "slow"))),
    requests.exceptions.SSLError(
        MaxRetryError(POOL, "/", ssl.SSLCertVerificationError("self-signed"))
    ),
    requests.exceptions.InvalidURL("no host"),
]
LOST: list[Exception] = [
    dropped(),
    requests.ReadTimeout(ReadTimeoutError(POOL, "/", "Read timed out.")),
    requests.ConnectionError(ReadTimeoutError(POOL, "/", "Read timed out.")),
    requests.ConnectionError(ProtocolError("Connection aborted.", BrokenPipeError())),
    requests.exceptions.ChunkedEncodingError("half an answer"),
    requests.exceptions.SSLError(MaxRetryError(POOL, "/", ssl.SSLEOFError("EOF"))),
]


@pytest.mark.parametrize("trouble", NO_CONNECTION, ids=lambda exc: type(exc).__name__)
def test_without_a_connection_nothing_was_sent(trouble: Exception) -> None:
    problem, wire = failed_create(trouble)

    lasting = (requests.exceptions.SSLError, requests.exceptions.InvalidURL)
    assert type(problem) is NotSent
    expected = ErrorClass.BLOCKED if isinstance(trouble, lasting) else ErrorClass.RETRY
    assert problem.failure.error_class is expected
    assert len(wire.calls) == 1


@pytest.mark.parametrize("trouble", LOST, ids=lambda exc: type(exc).__name__)
def test_a_connection_lost_after_sending_leaves_the_outcome_unknown(trouble: Exception) -> None:
    problem, wire = failed_create(trouble)

    assert type(problem) is OutcomeUnknown
    assert len(wire.calls) == 1


@pytest.mark.parametrize("trouble", NO_CONNECTION + LOST, ids=lambda exc: type(exc).__name__)
def test_a_read_without_a_response_can_be_repeated(trouble: Exception) -> None:
    with pytest.raises(Unavailable):
        client_on(answering(trouble)).read_image(ImageId("i"))


@pytest.mark.parametrize(
    ("reply", "kind", "error_class"),
    [
        ((429, b""), Throttled, "retry"),
        ((429, {"error_code": "APIGW.0308", "error_msg": "m"}), Throttled, "retry"),
        ((503, b"<html>busy</html>"), Unavailable, "retry"),
        ((429, ims("IMG.0014")), Throttled, "retry"),
        ((400, ims("IMG.0060")), Throttled, "retry"),
        ((400, ims("IMG.0194")), Throttled, "retry"),
        ((400, ims("IMG.0187")), Unavailable, "retry"),
        ((500, ims("IMG.0061")), OutcomeUnknown, "look-first"),
        ((502, b""), OutcomeUnknown, "look-first"),
        ((504, {"message": "Wait response timeout."}), OutcomeUnknown, "look-first"),
        ((408, b""), OutcomeUnknown, "look-first"),
        ((303, b""), OutcomeUnknown, "look-first"),
        ((302, b"<html>log in</html>"), OutcomeUnknown, "look-first"),
        ((200, b"<html>login</html>"), OutcomeUnknown, "look-first"),
        ((200, {}), OutcomeUnknown, "look-first"),
        ((200, {"job_id": ""}), OutcomeUnknown, "look-first"),
        ((204, b""), OutcomeUnknown, "look-first"),
        ((400, ims("IMG.0009")), NameExists, "look-first"),
        ((400, ims("IMG.0018")), Refused, "look-first"),
        ((400, ims("IMG.0061")), Refused, "look-first"),
        ((400, ims("IMG.0015")), Refused, "hold"),
        ((403, ims("IMG.0026")), Refused, "hold"),
        ((400, ims("IMG.0057")), Refused, "permanent"),
        ((400, ims("IMG.7777")), Refused, "permanent"),
        ((404, {"error_code": "APIGW.0101", "error_msg": "m"}), Refused, "permanent"),
        ((301, b"", {"Location": "https://elsewhere.example"}), Refused, "hold"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_each_response_to_a_create_is_classified_by_its_effect(
    reply: Reply, kind: type[CloudProblem], error_class: str
) -> None:
    problem, wire = failed_create(reply)

    assert type(problem) is kind
    assert problem.failure.error_class == error_class
    assert len(wire.calls) == 1


@pytest.mark.parametrize(
    ("reply", "scope"),
    [
        ((400, ims("IMG.0060")), ThrottleScope.CREATES),
        ((429, ims("IMG.0194")), ThrottleScope.CREATES),
        ((400, ims("APIGW.0308")), ThrottleScope.ALL_CALLS),
        ((429, ims("IMG.0187")), ThrottleScope.ALL_CALLS),
        ((429, b""), ThrottleScope.ALL_CALLS),
    ],
)
def test_a_throttled_call_says_which_calls_to_pause(reply: Reply, scope: ThrottleScope) -> None:
    with pytest.raises(Throttled) as create:
        client_on(answering(reply)).create_image(a_request(), import_id="i")
    with pytest.raises(Throttled) as read:
        client_on(answering(reply)).quota()

    assert (create.value.scope, read.value.scope) == (scope, scope)


@pytest.mark.parametrize("reply", [(400, ims("IMG.0023")), (404, ims("IMG.0023"))])
def test_an_unknown_job_has_an_error_of_its_own(reply: Reply) -> None:
    with pytest.raises(JobNotFound):
        client_on(answering(reply)).read_job(JobId("j"))


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        ((500, ims("IMG.0023")), Unavailable),
        ((404, {"error_code": "APIGW.0101", "error_msg": "m"}), Refused),
        ((404, ims("IMG.9999")), Refused),
        ((404, b""), Refused),
        ((404, b"<html><h1>Not Found</h1></html>"), Refused),
        ((404, {"error_code": "APIG.0101", "error_msg": "m"}), Refused),
        ((403, ims("IMG.0026")), Refused),
    ],
)
def test_other_errors_do_not_mean_that_the_job_is_unknown(
    reply: Reply, kind: type[CloudProblem]
) -> None:
    with pytest.raises(kind) as caught:
        client_on(answering(reply)).read_job(JobId("j"))

    assert type(caught.value) is kind


def test_a_problem_names_call_status_and_request() -> None:
    problem, _ = failed_create((504, {"message": "Wait response timeout.", "request_id": "r-42"}))

    assert problem.tried == "POST /v2/cloudimages/action (HTTP 504, request r-42)"
    assert problem.failure.request_id == "r-42"


@pytest.mark.parametrize(
    ("header", "seconds"), [("17", 17), ("Sun, 01 Mar 2026 12:00:30 GMT", 30), (None, None)]
)
def test_retry_after_is_passed_on(header: str | None, seconds: int | None) -> None:
    headers = {} if header is None else {"Retry-After": header}

    problem, _ = failed_create((429, b"", headers))

    pause = problem.retry_after
    assert (None if pause is None else pause.total_seconds()) == seconds


@pytest.mark.parametrize(
    "refusal",
    [
        (401, {"error_code": "APIGW.0307", "error_msg": "The token must be updated."}),
        (401, b""),
        (400, ims("IMG.0087")),
    ],
)
def test_a_create_with_a_refused_token_is_retried_once_with_a_new_one(refusal: Reply) -> None:
    wire = answering(refusal, (200, {"job_id": "j"}))

    assert client_on(wire).create_image(a_request(), import_id="i") == "j"
    assert [call.headers["X-Auth-Token"] for call in wire.calls] == ["token-1", "token-2"]


def test_a_refused_new_token_is_an_error_and_causes_no_further_login() -> None:
    logins = Logins(*(a_state(f"token-{number}") for number in range(1, 9)))
    wire = answering((401, b""))
    client = client_on(wire, SharedTokenAuth(SharedToken(logins, None, now=lambda: NOON)))

    with pytest.raises(Refused) as caught:
        client.create_image(a_request(), import_id="i")

    assert caught.value.failure.error_class is ErrorClass.AUTH
    assert (len(wire.calls), logins.count) == (2, 2)

    with pytest.raises(Refused):
        client.create_image(a_request(), import_id="i")
    # Refreshing is paused: the new token is neither dropped nor replaced.
    assert (len(wire.calls), logins.count) == (3, 2)


def test_without_another_token_nothing_is_retried() -> None:
    wire = answering((401, b""))

    with pytest.raises(Refused):
        client_on(wire, an_auth(a_state())).read_job(JobId("j"))

    assert len(wire.calls) == 1


def test_no_error_contains_the_token() -> None:
    secret = "MIIsecretsecretsecretsecretsecret"
    wire = answering((400, ims("IMG.0001", f"your token {secret} is odd")))

    with pytest.raises(Refused) as caught:
        client_on(wire, an_auth(a_state(secret))).quota()

    assert secret not in str(caught.value)
    assert secret not in repr(read_state(a_state(secret), now=NOON))


@pytest.mark.parametrize(
    "address",
    [
        "https://ims.example",
        "https://ims.example/",
        "https://ims.example/v2",
        "https://ims.example/v1/",
        "https://ims.example/v2.1",
        f"https://ims.example/v2/{PROJECT}",
    ],
)
def test_a_version_in_the_endpoint_is_ignored(address: str) -> None:
    by_catalogue, by_override = answering((200, {"images": []})), answering((200, {"images": []}))

    client_on(by_catalogue, an_auth(a_state(url=address))).images_tagged("i")
    client_on(by_override, endpoint_override=address).images_tagged("i")

    for wire in (by_catalogue, by_override):
        assert str(wire.calls[0].url).startswith("https://ims.example/v2/cloudimages?")


@pytest.mark.parametrize(
    ("api", "path"),
    [("status", f"/v1/{PROJECT}/jobs/j%2F1"), ("progress", "/v1/cloudimages/job/j%2F1")],
)
def test_a_job_is_read_by_either_api(api: Any, path: str) -> None:
    wire = answering((200, JOB))

    job = client_on(wire, job_api=api).read_job(JobId("j/1"))

    assert (job.status, job.percent) == (JobStatus.RUNNING, 40.0)
    assert wire.calls[0].path_url == path


def test_the_tag_is_queried_as_key_equals_value_in_the_own_project() -> None:
    wire = answering((200, {"images": []}))

    client_on(wire).images_tagged("uuid-1")

    assert f"owner={PROJECT}" in str(wire.calls[0].url)
    assert "tag=ims-import-id%3Duuid-1" in str(wire.calls[0].url)


def test_images_are_filtered_even_if_the_cloud_ignores_the_query() -> None:
    images = [
        {"id": "a", "name": "x", "tags": ["ims-import-id=other"], "created_at": "2020-01-01"},
        {"id": "b", "name": "y", "tags": ["ims-import-id.uuid-1"]},
        {"id": "c", "name": "x", "tags": [], "created_at": "2026-03-01T12:00:01Z"},
    ]  # fmt: skip
    client = client_on(answering((200, {"images": images})))

    assert [image.id for image in client.images_tagged("uuid-1")] == ["b"]
    assert [image.id for image in client.images_named("x", since=NOON)] == ["c"]


def paged(total: int) -> Callable[[requests.PreparedRequest], Reply]:
    ids = [f"{number:06}" for number in range(total)]

    def reply(request: requests.PreparedRequest) -> Reply:
        marker = str(request.url).partition("marker=")[2]
        start = ids.index(marker) + 1 if marker else 0
        return 200, {"images": [{"id": each, "name": "n"} for each in ids[start : start + PAGE]]}

    return reply


def test_all_pages_are_read() -> None:
    wire = Wire(paged(2 * PAGE + 1))

    assert len(client_on(wire).images_named("n", since=NOON)) == 2 * PAGE + 1
    # Only an empty page is the last one: a service may send shorter pages than requested.
    assert len(wire.calls) == 4


def test_too_many_pages_are_an_error() -> None:
    with pytest.raises(Unavailable):
        client_on(Wire(paged((MAX_PAGES + 1) * PAGE))).images_named("n", since=NOON)


PROXY_404 = (404, b"<html><h1>Not Found</h1></html>")
GLANCE_404 = (404, {"itemNotFound": {"code": 404, "message": "No image found"}})
NO_IMAGES = (200, {"images": []})
THE_IMAGE = (200, {"images": [{"id": "i", "name": "n", "status": "active"}]})


@pytest.mark.parametrize(
    "replies",
    [
        [(400, ims("IMG.0027"))],
        [(404, ims("IMG.0144"))],
        [(404, ims("IMG.0066"))],
        [(400, ims("IMG.0086"))],
        [GLANCE_404, NO_IMAGES],
        [PROXY_404, NO_IMAGES],
        [(404, b""), NO_IMAGES],
    ],
    ids=str,
)
def test_an_image_is_gone_when_ims_says_so(replies: list[Reply]) -> None:
    client_on(answering(*replies)).delete_image(ImageId("i"))

    assert client_on(answering(*replies)).read_image(ImageId("i")) is None


@pytest.mark.parametrize(
    "replies",
    [
        [PROXY_404, PROXY_404],
        [(404, b""), (503, b"")],
        [GLANCE_404, THE_IMAGE, NO_IMAGES],
        [(404, {"error_code": "APIGW.0101", "error_msg": "m"})],
        [(404, {"error_code": "APIG.0101", "error_msg": "m"})],
        [(404, {"error_code": "apig.0103", "error_msg": "m"})],
        [(500, ims("IMG.0027"))],
        [(410, b"gone")],
    ],
    ids=str,
)
def test_no_other_404_means_that_an_image_is_gone(replies: list[Reply]) -> None:
    with pytest.raises(CloudProblem):
        client_on(answering(*replies)).delete_image(ImageId("i"))
    with pytest.raises(CloudProblem):
        client_on(answering(*replies)).read_image(ImageId("i"))


def test_a_token_without_a_project_has_a_hint() -> None:
    client = client_on(answering((200, JOB)), an_auth(a_state(project=False)))

    with pytest.raises(Refused, match="project") as caught:
        client.project()

    assert "project_name" in caught.value.failure.hint


def test_a_region_without_ims_has_a_hint() -> None:
    wire = answering((200, JOB))
    client = client_on(wire)
    client._region = "eu-nl"

    with pytest.raises(Refused, match="eu-nl") as caught:
        client.quota()

    assert "region_name" in caught.value.failure.hint
    assert not wire.calls


def test_one_client_serves_many_threads() -> None:
    wire = answering((200, JOB))
    client = client_on(wire)
    threads = [threading.Thread(target=client.read_job, args=(JobId("j"),)) for _ in range(20)]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(wire.calls) == 20


# --- request signing ------------------------------------------------------------------------


class Signature(requests.auth.AuthBase):
    """Signs the whole request as AK/SK signing does: method, address and body."""

    def __init__(self, secret_key: bytes) -> None:
        self._secret_key = secret_key

    def of(self, request: requests.PreparedRequest) -> str:
        body = request.body or b""
        parts = [str(request.method), str(request.url), str(request.headers["X-Project-Id"])]
        text = "\n".join(parts).encode() + (body if isinstance(body, bytes) else body.encode())
        return f"SDK-HMAC-SHA256 {hmac.new(self._secret_key, text, hashlib.sha256).hexdigest()}"

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = self.of(request)
        return request


class SigningAuth(BaseAuthPlugin):
    """A plugin of keystoneauth for keys instead of tokens: there is nothing to refresh."""

    def get_headers(self, session: Session) -> dict[str, str]:
        del session
        return {"X-Project-Id": PROJECT}

    def get_endpoint(self, session: Session, **_filters: object) -> str:
        del session
        return "https://ims.signed.example"

    def get_project_id(self, session: Session) -> str:
        del session
        return PROJECT


def signed_client(wire: Wire) -> tuple[ImsService, Signature]:
    signature = Signature(b"secret")
    client = client_on(wire, SigningAuth())
    client._session.session.auth = signature
    return client, signature


def test_requests_can_be_signed_without_a_change_of_the_client() -> None:
    wire = answering((200, {"job_id": "j"}), (200, JOB))
    client, signature = signed_client(wire)

    assert client.create_image(a_request(), import_id="i") == "j"
    assert client.read_job(JobId("j")).status is JobStatus.RUNNING

    assert client.project() == PROJECT
    for call in wire.calls:
        assert str(call.url).startswith("https://ims.signed.example/v")
        assert call.headers["Authorization"] == signature.of(call)
        assert "X-Auth-Token" not in call.headers


def test_a_refused_signature_is_not_repeated() -> None:
    wire = answering((401, b""))

    with pytest.raises(Refused) as caught:
        signed_client(wire)[0].create_image(a_request(), import_id="i")

    assert caught.value.failure.error_class is ErrorClass.AUTH
    assert len(wire.calls) == 1
