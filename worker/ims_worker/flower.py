"""Flower for imports: readable rows, no secrets, a password, read-only, with persistent history.

Run as `python -m ims_worker.flower` or `ims-import flower`. Flower's own `FLOWER_…` variables
override what is set here.
"""

import argparse
import atexit
import re
import secrets
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from ims_config.celery_app import make_celery
from ims_config.logs import configure_logging
from ims_config.settings import FlowerSettings

# The id is long and comes last.
COLUMNS: Final = "name,state,args,result,retries,received,worker,uuid"
SAVE_EVERY_MS: Final = 60_000
PURGE_WORKERS_S: Final = 300
# Characters of a result or an exception that a row shows.
SHOWN: Final = 200
_SENSITIVE: Final = "password|passwd|token|secret|authorization|access_key|api_key|credential"
# `name: value` and `name=value`, quoted or not, as in the repr of arguments.
_SECRET: Final = re.compile(
    rf"""(?ix)
    (?P<name> (?<![\w\-]) ['"]? (?: [\w\-]*(?:{_SENSITIVE})[\w\-]* | ak | sk ) ['"]? \s*[:=]\s*)
    (?P<value> '(?:\\.|[^'\\])*' | "(?:\\.|[^"\\])*" | (?:bearer\ |basic\ )? [^\s,;&)\]}}]+ )
    """
)
# The password in the URL of a broker or database.
_URL_USERINFO: Final = re.compile(r"(?i)([a-z][a-z0-9+.\-]*://[^\s:/@]*:)[^\s@]+@")
_TEXTS: Final = ("args", "kwargs", "result", "exception", "traceback")


def redact(text: str) -> str:
    """The text without anything that looks like a secret."""
    return _SECRET.sub(r"\g<name>***", _URL_USERINFO.sub(r"\1***@", text))


def redact_event(event: dict[str, Any]) -> dict[str, Any]:
    """A Celery event without secrets, so that Flower can neither show nor store one.

    The texts of our own tasks hold none; other applications' tasks may.
    """
    texts = {name: redact(str(event[name])) for name in _TEXTS if event.get(name)}
    return event | texts


def format_task(task: Any) -> Any:
    """Shorten a task's row, and show its exception as its result."""
    if task.kwargs == "{}":
        task.kwargs = ""
    for name in ("result", "exception"):
        if text := getattr(task, name, None):
            setattr(task, name, _short(text))
    if task.exception and not task.result:
        task.result = task.exception
    return task


def _short(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGINT or SIGTERM."""
    arguments = _arguments().parse_args(argv)
    settings = FlowerSettings()
    configure_logging(settings)
    # Importing Flower defines global options and metrics: only do so where it runs.
    from flower.command import apply_env_options, extract_settings, setup_logging  # noqa: PLC0415
    from flower.urls import settings as web  # noqa: PLC0415
    from tornado.options import options  # noqa: PLC0415

    _set_options(options, arguments)
    apply_env_options()
    generated = _protect(options, settings)
    extract_settings()
    setup_logging()
    celery = make_celery(settings)
    celery.set_default()
    server = _server(celery, options, web)
    port = server.start_http_server()
    _print_address(options.address, port, generated)
    _serve(server)
    return 0


def default_db() -> Path:
    return Path.home() / ".local" / "state" / "ims-import" / "flower" / "db"


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ims-import flower", description="Watch the workers.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument("--port", type=int, default=5555, help="port (%(default)s); 0: a free one")
    parser.add_argument("--db", type=Path, default=default_db(), help="history (%(default)s)")
    parser.add_argument(
        "--allow-writes", action="store_true", help="allow pages to revoke tasks and stop workers"
    )
    return parser


def _set_options(options: Any, arguments: argparse.Namespace) -> None:
    arguments.db.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    options.address = arguments.host
    options.port = arguments.port
    options.db = str(arguments.db)
    options.persistent = True
    options.state_save_interval = SAVE_EVERY_MS
    options.purge_offline_workers = PURGE_WORKERS_S
    options.read_only = not arguments.allow_writes
    options.tasks_columns = COLUMNS
    options.format_task = format_task


def _protect(options: Any, settings: FlowerSettings) -> str | None:
    """Require a password; returns USER:PASSWORD if one was generated."""
    if options.basic_auth or options.auth:
        return None
    if settings.flower_basic_auth is not None:
        options.basic_auth = [settings.flower_basic_auth.get_secret_value()]
        return None
    generated = f"admin:{secrets.token_urlsafe(12)}"
    options.basic_auth = [generated]
    return generated


def _server(celery: Any, options: Any, web: dict[str, Any]) -> Any:
    from flower.app import Flower  # noqa: PLC0415  # as in main
    from flower.events import Events  # noqa: PLC0415  # as in main
    from tornado.ioloop import IOLoop  # noqa: PLC0415  # as in main

    class RedactedEvents(Events):  # type: ignore[misc]  # Flower is untyped
        def on_event(self, event: dict[str, Any]) -> None:
            super().on_event(redact_event(event))

    events = RedactedEvents(
        celery,
        db=options.db,
        persistent=options.persistent,
        state_save_interval=options.state_save_interval,
        enable_events=options.enable_events,
        io_loop=IOLoop.instance(),
        max_workers_in_memory=options.max_workers,
        max_tasks_in_memory=options.max_tasks,
    )
    return Flower(capp=celery, options=options, events=events, **web)


def _print_address(host: str, port: int, generated: str | None) -> None:
    url = f"http://{host}:{port}"
    if generated is None:
        print(f"Flower is at {url}", flush=True)  # noqa: T201  # a command's output
        return
    user, _, password = generated.partition(":")
    print(  # noqa: T201  # a command's output
        f"Flower is at {url} (user {user}, password {password}; "
        "set IMS_IMPORT_FLOWER_BASIC_AUTH=user:password for a permanent one)",
        flush=True,
    )


def _serve(server: Any) -> None:
    atexit.register(server.stop)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    # Flower saves its history at exit.
    with suppress(KeyboardInterrupt, SystemExit):
        server.start()


if __name__ == "__main__":
    sys.exit(main())
