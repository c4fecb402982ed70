"""Runs the whole product on one machine: every component a real process on a free port.

`with Stack.running(workers=2) as stack:` yields a stack whose processes may be killed and replaced.
"""

import itertools
import json
import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import requests
from cryptography.fernet import Fernet

from ims_config.celery_app import make_celery
from ims_config.records import Scope
from ims_config.settings import PREFIX, Settings
from ims_producer.client import Client
from ims_sandbox import bucket, valkey
from ims_sandbox.cloud import CloudOptions
from ims_sandbox.folders import stack_folder, write_secret
from ims_sandbox.process import Process, ProcessFailed, free_port

CLOUD: Final = "sandbox"
WORKER_APP: Final = "ims_worker.app"
# A stack starts again on other ports if another program takes one of its ports.
ATTEMPTS: Final = 3
# Short intervals, because the sandbox's jobs take seconds.
QUICK_SETTINGS: Final = {
    "POLL_FIRST_S": "1",
    "POLL_MAX_S": "2",
    "SWEEP_EVERY_S": "2",
    "STALE_AFTER_S": "10",
    "SETTLE_S": "5",
    "LOG_FORMAT": "console",
    # Webhook receivers run on this machine as well.
    "WEBHOOK_ALLOW": "127.0.0.0/8",
}
# Variables that point to other clouds, brokers and proxies do not apply to the sandbox.
_FOREIGN: Final = (PREFIX, "OS_", "AWS_", "CELERY_", "FLOWER_", "MOTO_", "HTTP_PROXY", "http_proxy",
                   "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class StackOptions:
    """The components of a stack and their configuration."""

    workers: int = 1
    concurrency: int = 8
    flower: bool = False
    api: bool = False
    s3: bool = False
    cloud: CloudOptions = field(default_factory=CloudOptions)
    settings: Mapping[str, str] = field(default_factory=dict)
    """Settings without their prefix, e.g. `{"SETTLE_S": "2"}`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowerEndpoint:
    """Flower's address and credentials."""

    url: str
    auth: tuple[str, str] = field(repr=False)
    """User and password."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiEndpoint:
    """The HTTP API's address and a key with every scope."""

    url: str
    key: str = field(repr=False)

    @property
    def header(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}


class Stack:
    """A running stack; created by `Stack.running(…)`."""

    def __init__(self, folder: Path, options: StackOptions) -> None:
        self.folder = folder
        self.processes: list[Process] = []
        """In start order."""
        self.env = _clean_environment(folder)
        self.keys = bucket.Keys(
            access_key=f"sandbox-{secrets.token_hex(4)}", secret_key=secrets.token_urlsafe(24)
        )
        self.redis_url = ""
        self.cloud_url = ""
        self.s3_url: str | None = None
        self.flower: FlowerEndpoint | None = None
        self.api: ApiEndpoint | None = None
        self._options = options
        self._worker_numbers = itertools.count(1)

    @classmethod
    @contextmanager
    def running(
        cls,
        options: StackOptions = StackOptions(),
        on_progress: Callable[[str], None] = lambda _: None,
    ) -> Iterator["Stack"]:
        """Start everything and wait until it is ready; stop it at the end."""
        for attempt in range(1, ATTEMPTS + 1):
            with stack_folder() as folder:
                stack = cls(folder, options)
                try:
                    stack._start(on_progress)
                except ProcessFailed as exc:
                    if attempt == ATTEMPTS or not _is_port_taken(exc):
                        raise
                else:
                    yield stack
                    return
                finally:
                    stack._stop()

    # --- while it runs ----------------------------------------------------------------------

    def settings(self, **others: object) -> Settings:
        """Settings of this stack, independent of the environment of this process."""
        own = {
            name.removeprefix(PREFIX).lower(): value
            for name, value in self.env.items()
            if name.startswith(PREFIX)
        }
        defaults = {
            name: field.get_default(call_default_factory=True)
            for name, field in Settings.model_fields.items()
        }
        return Settings(**(defaults | own | others))

    @cached_property
    def app(self) -> Any:
        """A Celery app that sends to this stack."""
        return make_celery(self.settings())

    def worker(
        self, *, env: Mapping[str, str] | None = None, app: str = WORKER_APP, wait: bool = True
    ) -> Process:
        """Start another worker and wait until it consumes; `app` is the module Celery loads."""
        name = f"worker{next(self._worker_numbers)}"
        argv = _worker_command(name, self._options.concurrency, app)
        process = self._launch(name, argv, lambda: self._worker_answers(name), env)
        if wait:
            process.wait_ready()
        return process

    @property
    def workers(self) -> list[Process]:
        return [process for process in self.processes if process.name.startswith("worker")]

    def kill(self, process: Process) -> None:
        """SIGKILL a process and forget it; `stop` sends SIGTERM first."""
        process.kill()
        self.processes.remove(process)

    def stop(self, process: Process) -> None:
        process.stop()
        self.processes.remove(process)

    def run(
        self,
        *argv: str,
        env: Mapping[str, str] | None = None,
        within: timedelta = timedelta(seconds=60),
    ) -> "subprocess.CompletedProcess[str]":
        """Run the CLI on this stack: `stack.run("list", "--json").stdout`."""
        return subprocess.run(
            [sys.executable, "-m", "ims_producer", *argv],
            env=self.env | dict(env or {}),
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=within.total_seconds(),
            check=False,
        )

    def s3(self) -> Any:
        """A boto3 client for the object storage."""
        if self.s3_url is None:
            raise ValueError("this stack was started without s3=True")
        return bucket.client(self.s3_url, self.keys)

    def process(self, name: str) -> Process:
        """The process of that name, e.g. `valkey`, `cloud` or `worker1`."""
        return next(process for process in self.processes if process.name == name)

    def failed_process(self) -> Process | None:
        """The first process that ended unexpectedly, if any."""
        return next((process for process in self.processes if not process.running), None)

    def log_of(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")

    # --- start and stop ---------------------------------------------------------------------

    def _start(self, on_progress: Callable[[str], None]) -> None:
        """Start the servers at once, then everything that is configured with their addresses."""
        options = self._options
        on_progress("Valkey, in place of Redis")
        self._start_valkey()
        if options.s3:
            on_progress("object storage, in place of OBS")
            self._start_bucket()
        on_progress("a simulation of IAM and IMS")
        self._start_cloud()
        self._wait_ready()
        self.env |= self._settings()
        on_progress("a worker" if options.workers == 1 else f"{options.workers} workers")
        for _ in range(options.workers):
            self.worker(wait=False)
        if options.flower:
            on_progress("Flower")
            self._start_flower()
        if options.api:
            on_progress("the HTTP API")
            self._start_api()
        self._wait_ready()

    def _wait_ready(self) -> None:
        for process in self.processes:
            process.wait_ready()

    def _settings(self) -> dict[str, str]:
        clouds = self.folder / "clouds.yaml"
        write_secret(clouds, _clouds_yaml(self.cloud_url, self._options.cloud))
        own = {
            "REDIS_URL": self.redis_url,
            "LEDGER_URL": f"sqlite:///{self.folder / 'ledger.db'}",
            "SECRET_KEY": Fernet.generate_key().decode(),
        }
        if self.s3_url is not None:
            own |= {
                "OBS_ENDPOINT": self.s3_url,
                "OBS_ACCESS_KEY": self.keys.access_key,
                "OBS_SECRET_KEY": self.keys.secret_key,
                "OBS_ADDRESSING": "path",
            }
        settings = QUICK_SETTINGS | own | dict(self._options.settings)
        return {f"{PREFIX}{name}": value for name, value in settings.items()} | {
            "OS_CLIENT_CONFIG_FILE": str(clouds),
            "OS_CLOUD": CLOUD,
        }

    def _start_valkey(self) -> None:
        port, password = free_port(), secrets.token_urlsafe(24)
        self.redis_url = valkey.address(port, password)
        config = valkey.write_config(self.folder, port=port, password=password)
        self._launch("valkey", valkey.command(config), lambda: valkey.answers(self.redis_url))

    def _start_bucket(self) -> None:
        # The bucket and the cloud print their address once they listen.
        port = free_port()
        self.s3_url = url = f"http://{bucket.HOST}:{port}"
        argv = _module("ims_sandbox", "bucket", "--port", str(port))
        self._launch("s3", argv, lambda: url in self.log_of("s3"))

    def _start_cloud(self) -> None:
        port = free_port()
        options = replace(self._options.cloud, port=port)
        if self.s3_url is not None:
            options = replace(
                options,
                s3_endpoint=self.s3_url,
                s3_access_key=self.keys.access_key,
                s3_secret_key=self.keys.secret_key,
            )
        file = self.folder / "cloud.json"
        write_secret(file, json.dumps(asdict(options)))
        self.cloud_url = f"http://{options.host}:{port}"
        argv = _module("ims_sandbox", "cloud", "--options", str(file))
        self._launch("cloud", argv, lambda: self.cloud_url in self.log_of("cloud"))

    def _start_flower(self) -> None:
        port, auth = free_port(), ("admin", secrets.token_urlsafe(12))
        self.flower = FlowerEndpoint(url=f"http://127.0.0.1:{port}", auth=auth)
        database = self.folder / "flower" / "db"
        argv = _module("ims_worker.flower", "--port", str(port), "--db", str(database))
        env = {f"{PREFIX}FLOWER_BASIC_AUTH": ":".join(auth)}
        self._launch("flower", argv, lambda: _is_ok(port, "/healthcheck"), env)

    def _start_api(self) -> None:
        with Client(self.settings()) as client:
            _, key = client.create_key(CLOUD, scopes=set(Scope))
        port = free_port()
        self.api = ApiEndpoint(url=f"http://127.0.0.1:{port}", key=key)
        argv = _module("ims_producer", "api", "--port", str(port))
        self._launch("api", argv, lambda: _is_ok(port, "/readyz"))

    def _launch(
        self,
        name: str,
        argv: Sequence[str],
        ready: Callable[[], bool],
        env: Mapping[str, str] | None = None,
    ) -> Process:
        process = Process(
            name=name, argv=argv, env=self.env | dict(env or {}), folder=self.folder, ready=ready
        )
        process.start()
        self.processes.append(process)
        return process

    def _worker_answers(self, name: str) -> bool:
        if " ready." not in self.log_of(name):
            return False
        return bool(self.app.control.ping(destination=[_node(name)], timeout=0.5))

    def _stop(self) -> None:
        """Stop in reverse start order, so that no process loses what it depends on."""
        if "app" in self.__dict__:
            self.app.close()
        for process in reversed(self.processes):
            process.stop()


def http_status(url: str, headers: Mapping[str, str] | None = None) -> int:
    """The status of a GET; 0 when nothing answers."""
    with requests.Session() as session:
        # Proxies of the environment do not apply to this machine.
        session.trust_env = False
        try:
            return session.get(url, headers=headers, timeout=5).status_code
        except requests.RequestException:
            return 0


def _is_port_taken(failure: ProcessFailed) -> bool:
    """Whether another program took the port between our choice and the start of the process."""
    return "address already in use" in str(failure).lower()


def _is_ok(port: int, path: str) -> bool:
    return http_status(f"http://127.0.0.1:{port}{path}") == 200  # noqa: PLR2004  # HTTP's own number


def _module(name: str, *argv: str) -> list[str]:
    return [sys.executable, "-m", name, *argv]


def _node(name: str) -> str:
    return f"{name}@sandbox"


def _worker_command(name: str, concurrency: int, app: str) -> list[str]:
    argv = ["-A", app, "worker", "-P", "threads", "-c", str(concurrency), "-E"]
    quiet = ["--without-gossip", "--without-mingle"]
    return _module("celery", *argv, *quiet, "-n", _node(name))


def _clean_environment(folder: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
    temp = folder / "tmp"
    temp.mkdir(mode=0o700)
    return kept | {
        "TMPDIR": str(temp),
        "NO_PROXY": "127.0.0.1,localhost",
        "PYTHONUNBUFFERED": "1",
    }


def _clouds_yaml(url: str, options: CloudOptions) -> str:
    entries = {
        CLOUD if project.id == options.project_id else project.name: {
            "auth": {
                "auth_url": f"{url}/v3",
                "username": project.user,
                "password": project.password,
                "project_name": project.name,
                "user_domain_name": options.domain,
                "project_domain_name": options.domain,
            },
            "region_name": options.region,
            "interface": "public",
        }
        for project in options.projects
    }
    # JSON is YAML, so no YAML library is needed.
    return json.dumps({"clouds": entries}, indent=2) + "\n"
