"""The sandbox cloud answers like the API references and injects faults on demand."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
from keystoneauth1 import session
from keystoneauth1.identity import v3

from ims_sandbox.cloud import CloudOptions, running_cloud
from ims_sandbox.cloud.server import Server

OPTIONS = CloudOptions(job_seconds=(0.3, 0.4), lock_seconds=60)
BODY = {"name": "n", "image_url": "images:ok.qcow2", "min_disk": 40}
CREATE = "/v2/cloudimages/action"


class Caller:
    """Calls the cloud with a token."""

    def __init__(self, cloud: Server) -> None:
        self.url = cloud.url
        self.project = OPTIONS.project_id
        self.token = self.log_in(OPTIONS.password).headers.get("X-Subject-Token", "")

    def log_in(self, password: str) -> requests.Response:
        user = {"name": OPTIONS.user, "password": password, "domain": {"name": OPTIONS.domain}}
        identity = {"methods": ["password"], "password": {"user": user}}
        scope = {"project": {"name": OPTIONS.project}}
        return self.call(
            "POST", "/v3/auth/tokens", {"auth": {"identity": identity, "scope": scope}}
        )

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> requests.Response:
        token = getattr(self, "token", "")
        return requests.request(
            method,
            self.url + path,
            json=body,
            headers={"X-Auth-Token": token} | {k.replace("_", "-"): v for k, v in headers.items()},
            timeout=10,
        )

    def create(self, **differences: Any) -> str:
        response = self.call("POST", CREATE, BODY | differences)
        return str(response.json()["job_id"])

    def job(self, job_id: str) -> dict[str, Any]:
        response: dict[str, Any] = self.call("GET", f"/v1/{self.project}/jobs/{job_id}").json()
        return response

    def ended(self, job_id: str) -> dict[str, Any]:
        return until(lambda: self.job(job_id), lambda job: job["status"] in ("SUCCESS", "FAIL"))

    def state(self) -> dict[str, Any]:
        response: dict[str, Any] = self.call("GET", "/admin/books").json()
        return response


def until(read: Callable[[], Any], fits: Callable[[Any], bool]) -> Any:
    deadline = time.monotonic() + 10
    while not fits(value := read()):
        assert time.monotonic() < deadline, value
    return value


@pytest.fixture
def cloud() -> Iterator[Caller]:
    with running_cloud(OPTIONS) as cloud:
        yield Caller(cloud)


def code_of(response: requests.Response) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["code"]


def test_keystoneauth_logs_in_and_finds_the_endpoint(cloud: Caller) -> None:
    auth = v3.Password(
        auth_url=f"{cloud.url}/v3",
        username=OPTIONS.user,
        password=OPTIONS.password,
        user_domain_name=OPTIONS.domain,
        project_name=OPTIONS.project,
        project_domain_name=OPTIONS.domain,
    )
    keystone = session.Session(auth)

    assert keystone.get_endpoint(service_type="image") == cloud.url
    assert keystone.get_project_id() == OPTIONS.project_id
    assert keystone.get_token().startswith("MII")


def test_an_import_runs_and_its_image_becomes_active(cloud: Caller) -> None:
    job_id = cloud.create(image_tags=[{"key": "ims-import-id", "value": "x"}])

    first = cloud.job(job_id)
    ended = cloud.ended(job_id)

    assert first["status"] in ("INIT", "RUNNING")
    assert first["end_time"] == ""
    image = cloud.call("GET", f"/v2/images/{ended['entities']['image_id']}").json()
    assert (image["status"], image["tags"]) == ("active", ["ims-import-id=x"])
    assert image["__data_origin"] == "file,images:ok.qcow2"


def test_both_job_calls_return_the_same(cloud: Caller) -> None:
    job_id = cloud.create()
    cloud.ended(job_id)

    assert cloud.call("GET", f"/v1/cloudimages/job/{job_id}").json() == cloud.job(job_id)


def test_images_are_found_by_name_and_tag_of_their_owner(cloud: Caller) -> None:
    cloud.create(name="mine", image_tags=[{"key": "k", "value": "v"}])
    cloud.create(name="other")

    def names(query: str) -> list[str]:
        images = cloud.call("GET", f"/v2/cloudimages?{query}").json()["images"]
        return [image["name"] for image in images]

    assert names(f"owner={cloud.project}&tag=k%3Dv") == ["mine"]
    assert names(f"owner={cloud.project}&name=other") == ["other"]
    assert names(f"owner={cloud.project}&created_at=gte:2100-01-01T00:00:00Z") == []
    assert names("name=mine") == []


@pytest.mark.parametrize(
    ("path", "differences", "code"),
    [
        (CREATE, {"name": " n"}, "IMG.0003"),
        (CREATE, {"name": "n" * 129}, "IMG.0002"),
        (CREATE, {"name": None}, "IMG.0013"),
        (CREATE, {"description": "a\nb"}, "IMG.0054"),
        (CREATE, {"image_url": "images"}, "IMG.0017"),
        (CREATE, {"image_url": "images:a b"}, "IMG.0175"),
        (CREATE, {"min_disk": 0}, "IMG.0055"),
        (CREATE, {"min_disk": 1025}, "IMG.0055"),
        (CREATE, {"min_disk": "40"}, "IMG.0055"),
        (CREATE, {"is_config_init": True}, "IMG.0001"),
        (CREATE, {"type": "Bogus"}, "IMG.0024"),
        (CREATE, {"type": "IsoImage"}, "IMG.0166"),
        (CREATE, {"is_quick_import": True}, "IMG.0159"),
        (CREATE, {"tags": ["a.b"], "image_tags": []}, "IMG.0115"),
        (CREATE, {"tags": ["a b.c"]}, "IMG.0115"),
        (CREATE, {"image_tags": [{"key": str(n), "value": ""} for n in range(11)]}, "IMG.0116"),
        (CREATE, {"data_images": [{"image_url": BODY["image_url"], "min_disk": 1}]}, "IMG.0123"),
        (CREATE, {"architecture": "arm", "hw_firmware_type": "bios"}, "IMG.0141"),
        ("/v1/cloudimages/dataimages/action", {"os_type": "Other"}, "IMG.0122"),
        ("/v1/cloudimages/dataimages/action", {"os_version": "x"}, "IMG.0001"),
        ("/v2/cloudimages/quickimport/action", {}, "IMG.0159"),
    ],
)
def test_what_the_reference_forbids_is_refused(
    cloud: Caller, path: str, differences: dict[str, Any], code: str
) -> None:
    assert code_of(cloud.call("POST", path, BODY | differences)) == (400, code)
    assert cloud.state()["creates"] == 0


def test_the_forty_first_job_is_refused(cloud: Caller) -> None:
    cloud.call("POST", "/admin/settings", {"job_seconds": [60, 60]})
    for _ in range(40):
        cloud.create()

    assert code_of(cloud.call("POST", CREATE, BODY)) == (400, "IMG.0060")
    assert cloud.state()["peak_active"] == {cloud.project: 40}


def test_a_wrong_token_is_refused(cloud: Caller) -> None:
    cloud.call("POST", "/admin/revoke-tokens")

    response = cloud.call("POST", CREATE, BODY)

    assert (response.status_code, response.json()["error_code"]) == (401, "APIGW.0307")


def test_five_wrong_passwords_lock_the_user(cloud: Caller) -> None:
    wrong = [cloud.log_in("wrong").status_code for _ in range(5)]

    locked = cloud.log_in(OPTIONS.password)

    assert wrong == [401] * 5
    assert "IAM.0061" in locked.json()["error"]["message"]
    assert cloud.state()["refused_logins"] == 6


@pytest.mark.parametrize(
    ("kind", "status", "creates"),
    [
        ("429", 429, 0),
        ("401", 401, 0),
        ("500-before", 500, 0),
        ("503-before", 503, 0),
        ("refused", 400, 0),
        ("500-after", 500, 1),
        ("504-after", 504, 1),
        ("garbage-after", 200, 1),
    ],
)
def test_a_fault_occurs_before_or_after_the_effect(
    cloud: Caller, kind: str, status: int, creates: int
) -> None:
    response = cloud.call("POST", CREATE, BODY, X_Sandbox_Fault=kind)

    assert (response.status_code, cloud.state()["creates"]) == (status, creates)
    assert cloud.state()["faults"] == {kind: 1}


@pytest.mark.parametrize(
    ("kind", "creates"), [("drop-before", 0), ("drop-after", 1), ("truncated-after", 1)]
)
def test_a_connection_can_be_lost(cloud: Caller, kind: str, creates: int) -> None:
    with pytest.raises((requests.ConnectionError, requests.exceptions.ChunkedEncodingError)):
        cloud.call("POST", CREATE, BODY, X_Sandbox_Fault=kind)

    assert cloud.state()["creates"] == creates


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("faults", {"kind": "504-before"}, "kind: must be one of 429, 401, 500-before"),
        ("faults", {"call": "create"}, "kind: must be one of"),
        ("faults", {"kind": "429", "call": "creat"}, "call: must be one of *, create"),
        ("faults", {"kind": "429", "tims": 2}, "unexpected keyword argument 'tims'"),
        ("schedule", {"seed": 1, "rates": {"teapot": 1}}, "given: 'teapot'"),
        ("settings", {"latency": 1}, "unexpected keyword argument 'latency'"),
    ],
)
def test_invalid_admin_requests_are_refused_with_the_reason(
    cloud: Caller, path: str, body: dict[str, Any], message: str
) -> None:
    response = cloud.call("POST", f"/admin/{path}", body)

    assert (response.status_code, message in response.json()["error"]["message"]) == (400, True)


def test_a_header_with_an_unknown_fault_is_refused(cloud: Caller) -> None:
    response = cloud.call("POST", CREATE, BODY, X_Sandbox_Fault="504-before")

    assert (response.status_code, cloud.state()["creates"]) == (400, 0)
    assert "given: '504-before'" in response.json()["error"]["message"]


@pytest.mark.parametrize("kind", ["fail-top", "fail-entities", "fail-bare"])
def test_a_job_fails_in_each_of_the_three_shapes(cloud: Caller, kind: str) -> None:
    cloud.call("POST", "/admin/faults", {"kind": kind, "call": "create"})

    ended = cloud.ended(cloud.create())

    codes = {ended["error_code"], ended["entities"].get("error_code")} - {None}
    assert (ended["status"], codes) == ("FAIL", {"IMG.0061"})


def test_a_fault_can_carry_its_own_error_code(cloud: Caller) -> None:
    for kind in ("refused", "fail-top"):
        fault = {"kind": kind, "call": "create", "code": "IMG.0057", "message": "empty file"}
        cloud.call("POST", "/admin/faults", fault)

    refused = cloud.call("POST", CREATE, BODY)
    failed = cloud.ended(cloud.create())

    assert refused.json()["error"] == {"code": "IMG.0057", "message": "empty file"}
    assert (failed["error_code"], failed["fail_reason"]) == ("IMG.0057", "empty file")


def test_a_seeded_schedule_repeats_itself(cloud: Caller) -> None:
    def run() -> list[int]:
        cloud.call("POST", "/admin/schedule", {"seed": 7, "rates": {"500-before": 0.5}})
        return [cloud.call("GET", "/v1/cloudimages/quota").status_code for _ in range(20)]

    first = run()

    assert run() == first
    assert set(first) == {200, 500}


def test_a_schedule_of_refused_tokens_does_not_apply_to_logins(cloud: Caller) -> None:
    cloud.call("POST", "/admin/schedule", {"seed": 7, "rates": {"401": 1.0}})

    assert cloud.call("GET", "/v1/cloudimages/quota").status_code == 401
    assert cloud.log_in(CloudOptions().password).status_code == 201


def test_an_image_being_made_cannot_be_deleted(cloud: Caller) -> None:
    job_id = cloud.create()
    image_id = until(lambda: cloud.job(job_id)["entities"].get("image_id"), bool)

    early = cloud.call("DELETE", f"/v2/images/{image_id}")
    cloud.ended(job_id)
    late = cloud.call("DELETE", f"/v2/images/{image_id}")

    assert code_of(early) == (400, "IMG.0090")
    assert late.status_code == 204
    assert cloud.call("GET", f"/v2/images/{image_id}").status_code == 404
