"""docker-compose.yml without an engine: what it says, and its commands as plain processes."""

import base64
import json
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from cryptography.fernet import Fernet
from redis import Redis
from running import Running

from ims_config.settings import Settings
from ims_sandbox.process import Process, free_port
from ims_sandbox.stack import QUICK_SETTINGS, http_status

ROOT = Path(__file__).parents[2]
REDIS = "IMS_IMPORT_TEST_REDIS_URL"
LONG_RUNNING = {"redis", "postgres", "worker", "api", "flower"}
OURS = {"migrate", "worker", "api", "flower"}


def missing(what: str) -> None:
    """Skip; in CI nothing may be skipped."""
    if os.environ.get("CI"):
        pytest.fail(f"{what}, and in CI nothing may be skipped")
    pytest.skip(what)


def make_secrets(folder: Path) -> dict[str, str]:
    subprocess.run(["sh", ROOT / "deploy" / "make-secrets.sh", folder], check=True)
    return {file.name: file.read_text() for file in folder.iterdir()}


def plainly(text: str) -> str:
    """As the container sees it: in a compose file a dollar is written twice."""
    return text.replace("$$", "$")


# --- what the file says ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Parsed:
    """What `docker-compose config` makes of the file, and the secrets that lay beside it."""

    text: str
    services: Mapping[str, Mapping[str, Any]]
    declared: Mapping[str, Mapping[str, Any]]
    secrets: Mapping[str, str]

    def command(self, service: str) -> str:
        command = self.services[service]["command"]
        return plainly(command if isinstance(command, str) else " ".join(command))

    def check(self, service: str) -> str:
        return plainly(" ".join(self.services[service]["healthcheck"]["test"]))


def parse(project: Path) -> tuple[str, dict[str, Any]]:
    """What `docker-compose config` makes of the file, and of an override beside it."""
    if shutil.which("docker-compose") is None:
        missing("docker-compose is not installed (on Debian: apt install docker-compose)")
    shutil.copy(ROOT / "docker-compose.yml", project)
    done = subprocess.run(
        ["docker-compose", "config"],
        cwd=project,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, yaml.safe_load(done.stdout)


@pytest.fixture(scope="module")
def parsed(tmp_path_factory: pytest.TempPathFactory) -> Parsed:
    project = tmp_path_factory.mktemp("project")
    secrets = make_secrets(project / "deploy" / "secrets")
    text, document = parse(project)
    return Parsed(text, document["services"], document["secrets"], secrets)


def given_secrets(services: Mapping[str, Mapping[str, Any]]) -> dict[str, set[str]]:
    return {
        name: {secret["source"] for secret in service.get("secrets", ())}
        for name, service in services.items()
    }


def test_the_override_for_watched_buckets_adds_to_the_worker_alone(
    parsed: Parsed, tmp_path: Path
) -> None:
    page = (ROOT / "docs" / "watch.md").read_text()
    [*_, override] = re.findall(r"(?ms)^```yaml\n(.*?)^```", page)
    (tmp_path / "docker-compose.override.yml").write_text(override)

    _, document = parse(tmp_path)

    given, before = given_secrets(document["services"]), given_secrets(parsed.services)
    environment = document["services"]["worker"]["environment"]
    added = {"ims_import_obs_access_key", "ims_import_obs_secret_key"}
    settings = {f"IMS_IMPORT_{name.upper()}" for name in Settings.model_fields}
    new = set(environment) - set(parsed.services["worker"]["environment"])
    assert given == before | {"worker": before["worker"] | added}
    assert new == {"IMS_IMPORT_WATCH_FILE"}
    assert new | {name.upper() for name in added} <= settings


def test_the_services_of_ours_are_one_image_with_several_commands(parsed: Parsed) -> None:
    assert set(parsed.services) == LONG_RUNNING | {"migrate"}
    assert {parsed.services[name]["image"] for name in OURS} == {"ims-import:local"}
    assert all(parsed.command(name).startswith("ims-import ") for name in OURS)


def test_no_secret_is_in_the_file_and_every_service_gets_only_its_own(parsed: Parsed) -> None:
    given = given_secrets(parsed.services)

    shown = [name for name, value in parsed.secrets.items() if value in parsed.text]
    assert shown == []
    assert set().union(*given.values()) == set(parsed.declared) == set(parsed.secrets)
    assert [name for name, secrets in given.items() if "clouds.yaml" in secrets] == ["worker"]
    assert given["flower"] == {"ims_import_redis_url", "ims_import_flower_basic_auth"}
    assert given["api"] == {"ims_import_redis_url", "ims_import_ledger_url"}
    assert given["migrate"] == {"ims_import_ledger_url"}


def test_nobody_is_root_and_no_root_file_system_is_writable(parsed: Parsed) -> None:
    for name, service in parsed.services.items():
        assert service["user"].split(":")[0] not in {"", "0", "root"}, name
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name


def test_what_runs_on_is_checked_and_comes_back(parsed: Parsed) -> None:
    for name in LONG_RUNNING:
        assert parsed.check(name), name
        assert parsed.services[name]["restart"] == "unless-stopped", name
    assert parsed.services["migrate"]["restart"] == "no"


def test_redis_keeps_what_it_is_given_and_its_password_is_on_no_command_line(
    parsed: Parsed,
) -> None:
    command = parsed.command("redis")

    assert "--appendonly yes" in command
    assert "--maxmemory-policy noeviction" in command
    assert re.search(r"(?m)^requirepass \$\(cat /run/secrets/redis_password\)$", command)
    assert "requirepass" not in command.partition("<<")[0]
    assert 'REDISCLI_AUTH="$(cat /run/secrets/redis_password)" redis-cli ping' in parsed.check(
        "redis"
    )
    assert parsed.services["redis"]["volumes"]


def test_ports_are_open_to_this_machine_alone(parsed: Parsed) -> None:
    ports = {
        name: [address_of(port) for port in service["ports"]]
        for name, service in parsed.services.items()
        if "ports" in service
    }

    assert ports == {"api": ["127.0.0.1"], "flower": ["127.0.0.1"]}


def address_of(port: str | Mapping[str, Any]) -> str:
    """docker-compose 1 writes `127.0.0.1:5555:5555/tcp`, its successor a mapping."""
    return port.partition(":")[0] if isinstance(port, str) else str(port.get("host_ip"))


def test_the_worker_may_finish_what_it_has_in_hand(parsed: Parsed) -> None:
    grace = parsed.services["worker"]["stop_grace_period"]

    assert grace in {"120s", "2m", "2m0s"}


# --- what it is built from ------------------------------------------------------------------


def test_secrets_are_made_once_and_are_such_as_the_services_take(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"

    first = make_secrets(folder)
    again = make_secrets(folder)

    assert first == again
    Fernet(first["ims_import_secret_key"])
    assert f":{first['redis_password']}@redis:" in first["ims_import_redis_url"]
    assert f":{first['postgres_password']}@postgres:" in first["ims_import_ledger_url"]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    # Read in the container by a user this machine does not know.
    assert all(file.stat().st_mode & stat.S_IROTH for file in folder.iterdir())


def test_secrets_go_neither_into_git_nor_into_the_image() -> None:
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    [first, *kept] = [
        line for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] != "#"
    ]

    assert "deploy/secrets/" in ignored
    assert first == "*"
    assert [line for line in kept if line.startswith("!deploy")] == ["!deploy/make-venv.sh"]
    assert all((ROOT / line[1:]).exists() for line in kept if line.startswith("!"))


def test_the_image_installs_as_ci_does_and_runs_as_nobody_special() -> None:
    steps = (ROOT / "deploy" / "Dockerfile").read_text().splitlines()

    assert "RUN deploy/make-venv.sh /opt/ims-import '.[worker,api]'" in steps
    assert [step for step in steps if step.startswith("USER ")] == ["USER 10001:10001"]
    # An ARG of a build stays in its history.
    assert not [step for step in steps if step.startswith("ARG ")]


# --- what its commands do -------------------------------------------------------------------


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    """An empty database of the Redis that the variable names; emptied again afterwards."""
    url = os.environ.get(REDIS, "")
    if not url:
        missing(f"{REDIS} names no Redis, e.g. redis://127.0.0.1:6379/9")
    with Redis.from_url(url) as redis:
        if redis.dbsize():
            pytest.fail(f"the database that {REDIS} names is not empty: name another")
        yield url
        redis.flushdb()


@dataclass(frozen=True, slots=True)
class Installation:
    """The services of ours, each with the environment the file gives it."""

    folder: Path
    common: Mapping[str, str]
    places: Mapping[str, str]
    """What is elsewhere on this machine than in a container."""

    def service(self, name: str) -> dict[str, Any]:
        document: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
        found: dict[str, Any] = document["services"][name]
        return found

    def env(self, name: str) -> dict[str, str]:
        given: dict[str, str] = self.service(name).get("environment", {})
        own = {key: self.places.get(key, value) for key, value in given.items()}
        return {**self.common, **own, "IMS_IMPORT_SECRETS_DIR": str(self.secrets(name))}

    def secrets(self, name: str) -> Path:
        """A folder with the files this service gets and no others, as /run/secrets is."""
        folder = self.folder / f"secrets of {name}"
        if not folder.exists():
            folder.mkdir()
            for secret in self.service(name)["secrets"]:
                shutil.copy(self.folder / "secrets" / secret, folder)
        return folder

    def run(self, service: str, *argv: str) -> subprocess.CompletedProcess[str]:
        """As `docker-compose exec SERVICE …` does; without a command the service's own."""
        return subprocess.run(
            argv or self.service(service)["command"],
            env=self.env(service),
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )

    def healthy(self, service: str) -> bool:
        kind, *test = self.service(service)["healthcheck"]["test"]
        argv = ["sh", "-c", *test] if kind == "CMD-SHELL" else test
        return self.run(service, *map(plainly, argv)).returncode == 0

    def start(self, service: str) -> Process:
        process = Process(
            name=service,
            argv=self.service(service)["command"],
            env=self.env(service),
            folder=self.folder,
            ready=partial(self.healthy, service),
        )
        process.start()
        return process


@pytest.fixture
def installation(tmp_path: Path, redis_url: str, postgres_url: str) -> Iterator[Installation]:
    """The sandbox's cloud, with the Redis and the PostgreSQL of this machine."""
    make_secrets(tmp_path / "secrets")
    with Running.start(workers=0) as cloud:
        ours = {
            "ims_import_redis_url": redis_url,
            "ims_import_ledger_url": postgres_url,
            "clouds.yaml": Path(cloud.stack.env["OS_CLIENT_CONFIG_FILE"]).read_text(),
        }
        for name, value in ours.items():
            secret = tmp_path / "secrets" / name
            secret.unlink()
            secret.write_text(value)
        hurry = {f"IMS_IMPORT_{name}": value for name, value in QUICK_SETTINGS.items()}
        yield Installation(
            folder=tmp_path,
            common=hurry
            | {
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                "HOME": str(tmp_path / "home"),
            },
            places={
                "IMS_IMPORT_ALIVE_FILE": str(tmp_path / "alive"),
                "OS_CLIENT_CONFIG_FILE": str(tmp_path / "secrets of worker" / "clouds.yaml"),
                "OS_CLOUD": cloud.stack.env["OS_CLOUD"],
                "FLOWER_ADDRESS": "127.0.0.1",
                "FLOWER_PORT": str(free_port()),
                "UVICORN_HOST": "127.0.0.1",
                "UVICORN_PORT": str(free_port()),
            },
        )


@contextmanager
def up(installation: Installation, *services: str) -> Iterator[None]:
    """These services, running and healthy; their stop is an orderly one."""
    parts: list[Process] = []
    try:
        for service in services:
            part = installation.start(service)
            parts.append(part)
            part.wait_ready()
        yield
    finally:
        for part in parts:
            part.stop()


def flower_answers(installation: Installation) -> dict[str, int]:
    url = f"http://127.0.0.1:{installation.places['FLOWER_PORT']}/workers"
    secret = installation.folder / "secrets" / "ims_import_flower_basic_auth"
    known = base64.b64encode(secret.read_bytes()).decode()
    return {
        "with the password of the secret": http_status(url, {"Authorization": f"Basic {known}"}),
        "without": http_status(url),
    }


def test_the_commands_of_the_file_make_an_installation_that_imports(
    installation: Installation,
) -> None:
    migrated = installation.run("migrate")
    assert migrated.returncode == 0, migrated.stdout + migrated.stderr

    with up(installation, "worker", "api", "flower"):
        submit = ("submit", "images:good.qcow2", "--name", "good", "--min-disk", "40")
        done = installation.run("worker", "ims-import", *submit, "--wait", "--json")
        doctor = installation.run("worker", "ims-import", "doctor")
        key = installation.run("api", "ims-import", "keys", "create", "--name=me", "--scope=read")
        response = requests.get(
            f"http://127.0.0.1:{installation.places['UVICORN_PORT']}/v1/imports",
            headers={"Authorization": f"Bearer {key.stdout.strip()}"},
            timeout=10,
        )
        pages = flower_answers(installation)
        healthy = {name: installation.healthy(name) for name in ("worker", "api", "flower")}

    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert (record["state"], bool(record["image_id"])) == ("SUCCEEDED", True)
    assert doctor.returncode == 0, doctor.stdout
    assert pages == {"with the password of the secret": 200, "without": 401}
    assert [item["id"] for item in response.json()["items"]] == [record["id"]]
    assert healthy == {"worker": True, "api": True, "flower": True}


def test_a_worker_that_stopped_touching_its_file_is_not_healthy(
    installation: Installation,
) -> None:
    before = installation.healthy("worker")
    alive = Path(installation.places["IMS_IMPORT_ALIVE_FILE"])
    alive.touch()
    fresh = installation.healthy("worker")
    long_ago = alive.stat().st_mtime - 61
    os.utime(alive, (long_ago, long_ago))

    assert (before, fresh, installation.healthy("worker")) == (False, True, False)


def test_migrate_says_so_when_there_is_no_database(installation: Installation) -> None:
    secret = installation.secrets("migrate") / "ims_import_ledger_url"
    secret.write_text("postgresql+psycopg://nobody:s3cret@127.0.0.1:1/none")

    migrated = installation.run("migrate")

    assert migrated.returncode == 5
    assert "127.0.0.1:1" in migrated.stdout
    assert "s3cret" not in migrated.stdout + migrated.stderr
