"""The whole product on one machine: every part a real process on a free port, gone at the end.

`with Stack.running(workers=2) as stack:` gives a stack whose parts may be killed and replaced.
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
# Others may take a port between our choice and the part's start.
ATTEMPTS: Final = 3
# Nobody waits for minutes on a sandbox.
QUICK_SETTINGS: Final = {
    "POLL_FIRST_S": "1",
    "POLL_MAX_S": "2",
    "SWEEP_EVERY_S": "2",
    "STALE_AFTER_S": "10",
    "SETTLE_S": "5",
    "LOG_FORMAT": "console",
    # Receivers of webhooks are on this machine as well.
    "WEBHOOK_ALLOW": "127.0.0.0/8",
}
# What the surroundings say about other clouds, brokers and proxies is not for the sandbox.
_FOREIGN: Final = (PREFIX, "OS_", "AWS_", "CELERY_", "FLOWER_", "MOTO_", "HTTP_PROXY", "http_proxy",
                   "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class StackOptions:
    """What a stack consists of."""

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
    """Where Flower is and what opens it."""

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
    """Where the HTTP API is and a key that opens all of it."""

    url: str
    key: str = field(repr=False)

    @property
    def header(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}


class Stack:
    """A running stack; made by `Stack.running(…)`."""

    def __init__(self, folder: Path, wanted: StackOptions) -> None:
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
        self._wanted = wanted
        self._parts: list[Process] = []
        self._started_workers = 0

    @classmethod
    @contextmanager
    def running(  # keyword-only all the same
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
        wanted = StackOptions(
            workers=workers,
            concurrency=concurrency,
            flower=flower,
            api=api,
            s3=s3,
            cloud=cloud or CloudOptions(),
            settings=settings or {},
        )
        with stack_folder() as folder:
            stack = cls(folder, wanted)
            try:
                stack._start(on_progress)
                yield stack
            finally:
                stack._stop()

    # --- what users of a stack need ---------------------------------------------------------

    def settings(self, **others: Any) -> Settings:
        """Settings of this stack alone, whatever the environment of this process says."""
        given = {
            name.removeprefix(PREFIX).lower(): value
            for name, value in self.env.items()
            if name.startswith(PREFIX)
        }
        defaults = {
            name: field.get_default(call_default_factory=True)
            for name, field in Settings.model_fields.items()
        }
        return Settings(**(defaults | given | others))

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
        """Start another worker and wait until it takes work; `app` is what Celery loads."""
        self._started_workers += 1
        name = f"worker{self._started_workers}"
        part = self._launch(
            name, _worker_command(name, concurrency or self._wanted.concurrency, app), env=env or {}
        )
        if wait:
            part.wait_ready(lambda: self._worker_answers(name))
        self.workers.append(part)
        return part

    def kill(self, part: Process) -> None:
        """End a part as a crash would; `stop` asks it first."""
        part.kill()
        self._forget(part)

    def stop(self, part: Process) -> None:
        part.stop()
        self._forget(part)

    def restart_redis(self, pause_s: float = 0) -> None:
        """Stop the server, which forgets everything, and start it at the same address."""
        with self.without_redis():
            Event().wait(pause_s)

    @contextmanager
    def without_redis(self) -> Iterator[None]:
        """The server is gone meanwhile, and comes back empty at the same address."""
        [valkey_part] = [part for part in self._parts if part.name == "valkey"]
        valkey_part.kill()
        self._forget(valkey_part)
        yield
        part = self._launch("valkey", valkey.command(self.folder / valkey.CONFIG))
        part.wait_ready(lambda: valkey.answers(self.redis_url))

    @contextmanager
    def without_cloud(self) -> Iterator[None]:
        """The cloud does not answer meanwhile; it keeps its memory."""
        [cloud] = [part for part in self._parts if part.name == "cloud"]
        cloud.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            cloud.signal(signal.SIGCONT)

    def restart_flower(self) -> None:
        """Stop Flower in an orderly way, which saves its history, and start it again."""
        [flower] = [part for part in self._parts if part.name == "flower"]
        self.stop(flower)
        self._start_flower()

    def run(self, *argv: str, within: timedelta = timedelta(seconds=60), **options: Any) -> Any:
        """Run the CLI on this stack: `stack.run("list", "--json").stdout`."""
        return subprocess.run(
            [sys.executable, "-m", "ims_producer", *argv],
            env=self.env,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=within.total_seconds(),
            check=False,
            **options,
        )

    def s3(self) -> Any:
        """A boto3 client of the bucket."""
        if self.s3_url is None:
            raise ValueError("this stack was started without s3=True")
        return bucket.client(self.s3_url, self.keys)

    @property
    def parts(self) -> tuple[Process, ...]:
        """Every process of the stack, in the order of their start."""
        return tuple(self._parts)

    def failed_process(self) -> Process | None:
        """A part that ended by itself, if one did."""
        return next((part for part in self._parts if not part.running), None)

    def log_of(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")

    # --- start and stop ---------------------------------------------------------------------

    def _start(self, on_progress: Callable[[str], None]) -> None:
        wanted = self._wanted
        on_progress("Valkey, in place of Redis")
        self._start_valkey()
        if wanted.s3:
            on_progress("object storage, in place of OBS")
            self._start_bucket()
        on_progress("the stand-in for IAM and IMS")
        self._start_cloud()
        self.env |= self._settings()
        on_progress("a worker" if wanted.workers == 1 else f"{wanted.workers} workers")
        for _ in range(wanted.workers):
            self.worker()
        if wanted.flower:
            on_progress("Flower")
            self._start_flower()
        if wanted.api:
            on_progress("the HTTP API")
            self._start_api()

    def _settings(self) -> dict[str, str]:
        clouds = self.folder / "clouds.yaml"
        _write_secret(clouds, _clouds_yaml(self.cloud_url, self._wanted.cloud))
        ours = {
            "REDIS_URL": self.redis_url,
            "LEDGER_URL": f"sqlite:///{self.folder / 'ledger.db'}",
            "SECRET_KEY": Fernet.generate_key().decode(),
        }
        if self.s3_url is not None:
            ours |= {
                "OBS_ENDPOINT": self.s3_url,
                "OBS_ACCESS_KEY": self.keys.access_key,
                "OBS_SECRET_KEY": self.keys.secret_key,
                "OBS_ADDRESSING": "path",
            }
        settings = QUICK_SETTINGS | ours | dict(self._wanted.settings)
        return {f"{PREFIX}{name}": value for name, value in settings.items()} | {
            "OS_CLIENT_CONFIG_FILE": str(clouds),
            "OS_CLOUD": CLOUD,
        }

    def _start_valkey(self) -> None:
        password = secrets.token_urlsafe(24)

        def launch(port: int) -> Process:
            self.redis_url = valkey.address(port, password)
            config = valkey.write_config(self.folder, port=port, password=password)
            return self._launch("valkey", valkey.command(config))

        self._on_a_free_port(launch, lambda _: valkey.answers(self.redis_url))

    def _start_bucket(self) -> None:
        def launch(port: int) -> Process:
            self.s3_url = f"http://{bucket.HOST}:{port}"
            return self._launch("s3", _module("ims_sandbox", "bucket", "--port", str(port)))

        self._on_a_free_port(launch, lambda port: http_status(f"http://127.0.0.1:{port}/") > 0)

    def _start_cloud(self) -> None:
        chosen = self._wanted.cloud
        if self.s3_url is not None:
            chosen = replace(
                chosen,
                s3_endpoint=self.s3_url,
                s3_access_key=self.keys.access_key,
                s3_secret_key=self.keys.secret_key,
            )

        def launch(port: int) -> Process:
            options = self.folder / "cloud.json"
            _write_secret(options, json.dumps(asdict(replace(chosen, port=port))))
            self.cloud_url = f"http://{chosen.host}:{port}"
            return self._launch("cloud", _module("ims_sandbox", "cloud", "--options", str(options)))

        self._on_a_free_port(launch, listens)

    def _start_flower(self) -> None:
        password = secrets.token_urlsafe(12)

        def launch(port: int) -> Process:
            self.flower = FlowerEndpoint(
                url=f"http://127.0.0.1:{port}", user="admin", password=password
            )
            argv = ("--port", str(port), "--db", str(self.folder / "flower" / "db"))
            auth = {f"{PREFIX}FLOWER_BASIC_AUTH": self.flower.basic_auth}
            return self._launch("flower", _module("ims_worker.flower", *argv), env=auth)

        self._on_a_free_port(
            launch,
            lambda port: http_status(f"http://127.0.0.1:{port}/healthcheck") == 200,  # noqa: PLR2004  # HTTP's own number
        )

    def _start_api(self) -> None:
        with Client(self.settings()) as client:
            _, key = client.ledger.keys.create(CLOUD, scopes=set(Scope))

        def launch(port: int) -> Process:
            self.api = ApiEndpoint(url=f"http://127.0.0.1:{port}", key=key)
            return self._launch("api", _module("ims_producer", "api", "--port", str(port)))

        self._on_a_free_port(
            launch,
            lambda port: http_status(f"http://127.0.0.1:{port}/readyz") == 200,  # noqa: PLR2004  # HTTP's own number
        )

    def _on_a_free_port(
        self, launch: Callable[[int], Process], ready: Callable[[int], bool]
    ) -> None:
        for attempt in range(1, ATTEMPTS + 1):
            port = free_port()
            part = launch(port)
            try:
                part.wait_ready(lambda port=port: ready(port))  # type: ignore[misc]
            except ProcessFailed:
                taken = not part.running
                part.kill()
                self._parts.remove(part)
                if attempt == ATTEMPTS or not taken:
                    raise
            else:
                return

    def _launch(
        self, name: str, argv: Sequence[str], env: Mapping[str, str] | None = None
    ) -> Process:
        part = Process.launch(name, argv, env=self.env | dict(env or {}), folder=self.folder)
        self._parts.append(part)
        return part

    def _worker_answers(self, name: str) -> bool:
        log = self.folder / f"{name}.log"
        if " ready." not in log.read_text(errors="replace"):
            return False
        return bool(self.app.control.ping(destination=[_node(name)], timeout=0.5))

    def _forget(self, part: Process) -> None:
        self._parts.remove(part)
        if part in self.workers:
            self.workers.remove(part)

    def _stop(self) -> None:
        """In the order opposite to the start, so that nobody misses what it stands on."""
        if "app" in self.__dict__:
            self.app.close()
        for part in reversed(self._parts):
            part.stop()


def http_status(url: str, headers: Mapping[str, str] | None = None) -> int:
    """The status a GET is answered with; 0 when nobody answers."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(url, headers=dict(headers or {}))  # noqa: S310  # our own
    try:
        with opener.open(request, timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as exc:
        exc.close()
        return exc.code
    except OSError:
        return 0


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
        CLOUD: _entry(url, options, options.user, options.password, options.project),
        **{
            other.name: _entry(url, options, other.user, other.password, other.name)
            for other in options.other_projects
        },
    }
    # JSON is YAML, and needs no library here.
    return json.dumps({"clouds": entries}, indent=2) + "\n"


def _entry(url: str, options: CloudOptions, user: str, password: str, project: str) -> Any:
    return {
        "auth": {
            "auth_url": f"{url}/v3",
            "username": user,
            "password": password,
            "project_name": project,
            "user_domain_name": options.domain,
            "project_domain_name": options.domain,
        },
        "region_name": options.region,
        "interface": "public",
    }
