"""Runs the whole product on one machine: every component a real process on a free port.

`with Stack.running(workers=2) as stack:` yields a stack whose processes may be killed and replaced.
"""

import base64
import json
import os
import secrets
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from threading import Event
from typing import Any, Final

from cryptography.fernet import Fernet

from ims_config.celery_app import make_celery
from ims_config.records import Scope
from ims_config.settings import PREFIX, Settings
from ims_producer.client import Client
from ims_sandbox import bucket, valkey
from ims_sandbox.cloud import CloudOptions
from ims_sandbox.folders import stack_folder
from ims_sandbox.process import Process, ProcessFailed, free_port, listens

CLOUD: Final = "sandbox"
WORKER_APP: Final = "ims_worker.app"
# Another program may take a port between our choice and the start of the process.
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
    user: str
    password: str = field(repr=False)

    @property
    def basic_auth(self) -> str:
        return f"{self.user}:{self.password}"

    @property
    def header(self) -> dict[str, str]:
        return {"Authorization": f"Basic {base64.b64encode(self.basic_auth.encode()).decode()}"}


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
        self.workers: list[Process] = []
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
        self._processes: list[Process] = []
        self._ports: set[int] = set()
        self._started_workers = 0

    @classmethod
    @contextmanager
    def running(
        cls,
        *,
        workers: int = 1,
        concurrency: int = 8,
        flower: bool = False,
        api: bool = False,
        s3: bool = False,
        cloud: CloudOptions | None = None,
        settings: Mapping[str, str] | None = None,
        on_progress: Callable[[str], None] = lambda _: None,
    ) -> Iterator["Stack"]:
        """Start everything and wait until it is ready; stop it at the end."""
        options = StackOptions(
            workers=workers,
            concurrency=concurrency,
            flower=flower,
            api=api,
            s3=s3,
            cloud=cloud or CloudOptions(),
            settings=settings or {},
        )
        with stack_folder() as folder:
            stack = cls(folder, options)
            try:
                stack._start(on_progress)
                yield stack
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
        self,
        *,
        concurrency: int | None = None,
        env: Mapping[str, str] | None = None,
        app: str = WORKER_APP,
        wait: bool = True,
    ) -> Process:
        """Start another worker and wait until it consumes; `app` is the module Celery loads."""
        self._started_workers += 1
        name = f"worker{self._started_workers}"
        argv = _worker_command(name, concurrency or self._options.concurrency, app)
        process = self._launch(name, argv, env=env or {})
        self.workers.append(process)
        if wait:
            self._wait_for_worker(process)
        return process

    def kill(self, process: Process) -> None:
        """SIGKILL a process and forget it; `stop` sends SIGTERM first."""
        process.kill()
        self._remove(process)

    def stop(self, process: Process) -> None:
        process.stop()
        self._remove(process)

    def restart_redis(self, pause_s: float = 0) -> None:
        """Stop the server, which loses all data, and start it at the same address."""
        with self.without_redis():
            Event().wait(pause_s)

    @contextmanager
    def without_redis(self) -> Iterator[None]:
        """Stop the server for the block; it restarts empty at the same address."""
        self.kill(self.process("valkey"))
        yield
        process = self._launch("valkey", valkey.command(self.folder / valkey.CONFIG))
        process.wait_ready(lambda: valkey.answers(self.redis_url))

    @contextmanager
    def without_cloud(self) -> Iterator[None]:
        """Suspend the cloud for the block; it keeps its state."""
        cloud = self.process("cloud")
        cloud.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            cloud.signal(signal.SIGCONT)

    def restart_flower(self) -> None:
        """Stop Flower gracefully, which saves its history, and start it again."""
        self.stop(self.process("flower"))
        self._start_flower()()

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

    @property
    def processes(self) -> tuple[Process, ...]:
        """All processes of the stack in start order."""
        return tuple(self._processes)

    def process(self, name: str) -> Process:
        """The process of that name, e.g. `valkey`, `cloud` or `worker1`."""
        return next(process for process in self._processes if process.name == name)

    def failed_process(self) -> Process | None:
        """The first process that ended unexpectedly, if any."""
        return next((process for process in self._processes if not process.running), None)

    def log_of(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")

    # --- start and stop ---------------------------------------------------------------------

    def _start(self, on_progress: Callable[[str], None]) -> None:
        """Start the servers at once, then everything that is configured with their addresses."""
        options = self._options
        on_progress("Valkey, in place of Redis")
        servers = [self._start_valkey()]
        if options.s3:
            on_progress("object storage, in place of OBS")
            servers.append(self._start_bucket())
        on_progress("a simulation of IAM and IMS")
        servers.append(self._start_cloud())
        for wait in servers:
            wait()
        self.env |= self._settings()
        on_progress("a worker" if options.workers == 1 else f"{options.workers} workers")
        workers = [self.worker(wait=False) for _ in range(options.workers)]
        clients = []
        if options.flower:
            on_progress("Flower")
            clients.append(self._start_flower())
        if options.api:
            on_progress("the HTTP API")
            clients.append(self._start_api())
        for wait in clients:
            wait()
        for worker in workers:
            self._wait_for_worker(worker)

    def _settings(self) -> dict[str, str]:
        clouds = self.folder / "clouds.yaml"
        _write_secret(clouds, _clouds_yaml(self.cloud_url, self._options.cloud))
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

    def _start_valkey(self) -> Callable[[], None]:
        password = secrets.token_urlsafe(24)

        def launch(port: int) -> Process:
            self.redis_url = valkey.address(port, password)
            config = valkey.write_config(self.folder, port=port, password=password)
            return self._launch("valkey", valkey.command(config))

        return self._on_a_free_port(launch, lambda _: valkey.answers(self.redis_url))

    def _start_bucket(self) -> Callable[[], None]:
        def launch(port: int) -> Process:
            self.s3_url = f"http://{bucket.HOST}:{port}"
            return self._launch("s3", _module("ims_sandbox", "bucket", "--port", str(port)))

        return self._on_a_free_port(
            launch, lambda port: http_status(f"http://127.0.0.1:{port}/") > 0
        )

    def _start_cloud(self) -> Callable[[], None]:
        options = self._options.cloud
        if self.s3_url is not None:
            options = replace(
                options,
                s3_endpoint=self.s3_url,
                s3_access_key=self.keys.access_key,
                s3_secret_key=self.keys.secret_key,
            )

        def launch(port: int) -> Process:
            file = self.folder / "cloud.json"
            _write_secret(file, json.dumps(asdict(replace(options, port=port))))
            self.cloud_url = f"http://{options.host}:{port}"
            return self._launch("cloud", _module("ims_sandbox", "cloud", "--options", str(file)))

        return self._on_a_free_port(launch, listens)

    def _start_flower(self) -> Callable[[], None]:
        password = secrets.token_urlsafe(12)

        def launch(port: int) -> Process:
            self.flower = FlowerEndpoint(
                url=f"http://127.0.0.1:{port}", user="admin", password=password
            )
            argv = ("--port", str(port), "--db", str(self.folder / "flower" / "db"))
            auth = {f"{PREFIX}FLOWER_BASIC_AUTH": self.flower.basic_auth}
            return self._launch("flower", _module("ims_worker.flower", *argv), env=auth)

        return self._on_a_free_port(launch, lambda port: _is_ok(port, "/healthcheck"))

    def _start_api(self) -> Callable[[], None]:
        with Client(self.settings()) as client:
            _, key = client.create_key(CLOUD, scopes=set(Scope))

        def launch(port: int) -> Process:
            self.api = ApiEndpoint(url=f"http://127.0.0.1:{port}", key=key)
            return self._launch("api", _module("ims_producer", "api", "--port", str(port)))

        return self._on_a_free_port(launch, lambda port: _is_ok(port, "/readyz"))

    def _on_a_free_port(
        self, launch: Callable[[int], Process], ready: Callable[[int], bool]
    ) -> Callable[[], None]:
        """Launch now; the result waits until it is ready and changes the port if it is taken."""
        port = self._free_port()
        process = launch(port)

        def is_ready() -> bool:
            return ready(port)

        def wait() -> None:
            nonlocal port, process
            for attempt in range(1, ATTEMPTS + 1):
                try:
                    process.wait_ready(is_ready)
                except ProcessFailed:
                    taken = not process.running
                    self.kill(process)
                    if attempt == ATTEMPTS or not taken:
                        raise
                    port = self._free_port()
                    process = launch(port)
                else:
                    return

        return wait

    def _free_port(self) -> int:
        """A port that no other process of this stack is about to use."""
        port = next(port for port in iter(free_port, None) if port not in self._ports)
        self._ports.add(port)
        return port

    def _launch(
        self, name: str, argv: Sequence[str], env: Mapping[str, str] | None = None
    ) -> Process:
        process = Process.launch(name, argv, env=self.env | dict(env or {}), folder=self.folder)
        self._processes.append(process)
        return process

    def _wait_for_worker(self, process: Process) -> None:
        process.wait_ready(lambda: self._worker_answers(process.name))

    def _worker_answers(self, name: str) -> bool:
        if " ready." not in self.log_of(name):
            return False
        return bool(self.app.control.ping(destination=[_node(name)], timeout=0.5))

    def _remove(self, process: Process) -> None:
        self._processes.remove(process)
        if process in self.workers:
            self.workers.remove(process)

    def _stop(self) -> None:
        """Stop in reverse start order, so that no process loses what it depends on."""
        if "app" in self.__dict__:
            self.app.close()
        for process in reversed(self._processes):
            process.stop()


def http_status(url: str, headers: Mapping[str, str] | None = None) -> int:
    """The status of a GET; 0 when nothing answers."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(url, headers=dict(headers or {}))  # noqa: S310  # our own
    try:
        with opener.open(request, timeout=5) as response:
            return int(response.status)
    except urllib.error.HTTPError as exc:
        exc.close()
        return exc.code
    except OSError:
        return 0


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


def _write_secret(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text)


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
