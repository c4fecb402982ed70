"""The clouds of clouds.yaml, and the errors of unknown or incomplete ones."""

import os
from pathlib import Path

import pytest
import requests
from ims_client import NOON, Wire
from keystoneauth1 import exceptions as ks
from pydantic import SecretStr

from ims_config.records import ErrorClass
from ims_config.settings import Settings
from ims_worker.adapters.otc.clouds import OpenStackClouds, login_problem, secret_keys
from ims_worker.adapters.otc.ims import ImsService
from ims_worker.errors import LoginRefused, Refused, Unavailable

CLOUDS = """
clouds:
  prod:
    profile: otc
    region_name: eu-de
    auth: {username: u, password: very-secret, project_name: eu-de, user_domain_name: d}
  empty:
    auth: {auth_url: https://iam.example/v3}
"""


@pytest.fixture
def clouds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OpenStackClouds:
    for name in list(os.environ):
        if name.startswith("OS_"):
            monkeypatch.delenv(name)
    (tmp_path / "clouds.yaml").write_text(CLOUDS)
    monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(tmp_path / "clouds.yaml"))
    return OpenStackClouds(Settings(redis_url=SecretStr("redis://127.0.0.1:1")), now=lambda: NOON)


def test_a_service_is_created_once_and_without_network_io(clouds: OpenStackClouds) -> None:
    service = clouds.service("prod")

    assert isinstance(service, ImsService)
    assert clouds.service("prod") is service


def test_credentials_are_the_same_under_every_name(
    clouds: OpenStackClouds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alias = CLOUDS + CLOUDS.split("clouds:\n")[1].replace("prod:", "alias:").replace(
        "empty:", "e2:"
    )
    auth = "auth: {username: v, password: p, project_name: eu-de}"
    other = f"  broken: abc\n  other:\n    profile: otc\n    {auth}\n"
    (tmp_path / "clouds.yaml").write_text(alias + other)
    monkeypatch.setenv("OS_CLOUD", "prod")

    assert set(clouds.retry_login("alias")) == {None, "prod", "alias"}
    assert set(clouds.retry_login(None)) == {None, "prod", "alias"}
    assert set(clouds.retry_login("other")) == {"other"}


def test_the_vendor_profile_provides_the_auth_url(clouds: OpenStackClouds) -> None:
    identity = clouds._cloud("prod").identity

    assert identity["auth_url"] == "https://iam.eu-de.otc.t-systems.com/v3"
    assert "very-secret" not in str(identity)


def test_an_unknown_cloud_is_refused_with_the_known_ones(clouds: OpenStackClouds) -> None:
    with pytest.raises(Refused, match="empty, prod") as caught:
        clouds.service("nowhere")

    assert caught.value.failure.error_class is ErrorClass.PERMANENT


@pytest.mark.parametrize("name", ["empty", None])
def test_missing_credentials_have_a_hint(clouds: OpenStackClouds, name: str | None) -> None:
    with pytest.raises(LoginRefused) as caught:
        clouds.service(name).project()

    assert "clouds.yaml" in caught.value.failure.hint


def an_answer(status: int, body: bytes, **headers: str) -> ks.HttpError:
    response = requests.Response()
    response.status_code = status
    response._content = body
    response.headers.update(headers)
    return ks.HttpError(response=response, http_status=status)


@pytest.mark.parametrize(
    ("exc", "kind"),
    [
        (an_answer(401, b'{"error":{"message":"Unauthorized.","code":401}}'), LoginRefused),
        (an_answer(403, b'{"error_code":"IAM.0080","error_msg":"m"}'), LoginRefused),
        (an_answer(400, b'{"error_code":"IAM.0011","error_msg":"m"}'), LoginRefused),
        (an_answer(429, b'{"error_code":"IAM.0012","error_msg":"m"}'), Unavailable),
        (an_answer(500, b""), Unavailable),
        (an_answer(503, b"<html>"), Unavailable),
        (ks.ConnectFailure("no route"), Unavailable),
        (ks.DiscoveryFailure("no versions"), Unavailable),
        (KeyError("X-Subject-Token"), Unavailable),
    ],
)
def test_only_a_4xx_of_iam_is_about_credentials(exc: Exception, kind: type) -> None:
    problem = login_problem(exc, "https://iam.example/v3", now=NOON)

    assert type(problem) is kind
    assert problem.tried.startswith("POST https://iam.example/v3/auth/tokens (")


def test_a_401_of_version_discovery_says_nothing_about_credentials(
    clouds: OpenStackClouds,
) -> None:
    refusing = Wire(lambda _: (401, {"error_code": "APIGW.0301", "error_msg": "no token"}))
    cloud = clouds._cloud("prod")
    cloud._login_session.session.mount("https://", refusing)

    with pytest.raises(Unavailable) as caught:
        cloud._log_in()

    assert {call.method for call in refusing.calls} == {"GET"}
    assert caught.value.failure.error_class is ErrorClass.RETRY
    assert caught.value.tried == "GET https://iam.eu-de.otc.t-systems.com/v3 (HTTP 401)"


def test_retry_after_of_iam_is_passed_on() -> None:
    busy = an_answer(429, b"", **{"Retry-After": "9"})

    pause = login_problem(busy, "https://iam.example/v3", now=NOON).retry_after

    assert pause is not None
    assert pause.total_seconds() == 9


def test_an_invalid_secret_key_is_not_used(caplog: pytest.LogCaptureFixture) -> None:
    assert secret_keys(Settings(secret_key=(SecretStr("short"),))) == []
    assert "short" not in caplog.text
