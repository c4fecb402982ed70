"""Flower for imports: readable names, no secret, a password, no buttons, a history that stays.

Run as `python -m ims_worker.flower` or `ims-import flower`. Flower's own `FLOWER_…` variables
work too and win over what is set here.
"""

import argparse
import ast
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

# What a person looks for first; the id, which is long, comes last.
COLUMNS: Final = "name,state,args,result,retries,received,worker,uuid"
SAVE_EVERY_MS: Final = 60_000
PURGE_WORKERS_S: Final = 300
# How much of a result or an exception a row shows, in characters.
SHOWN: Final = 200
_TELLING: Final = "password|passwd|token|secret|authorization|access_key|api_key|credential"
# `name: value` and `name=value`, quoted or not, as they stand in the repr of arguments.
_SECRET: Final = re.compile(
    rf"""(?ix)
    (?P<name> (?<![\w\-]) ['"]? (?: [\w\-]*(?:{_TELLING})[\w\-]* | ak | sk ) ['"]? \s*[:=]\s*)
    (?P<value> '(?:\\.|[^'\\])*' | "(?:\\.|[^"\\])*" | (?:bearer\ |basic\ )? [^\s,;&)\]}}]+ )
    """
)
# The password in the address of a broker or database.
_IN_ADDRESS: Final = re.compile(r"(?i)([a-z][a-z0-9+.\-]*://[^\s:/@]*:)[^\s@]+@")
_TICKET: Final = re.compile(r"\{'id': .*\}")
_IMAGE_ID: Final = re.compile(r"'image_id': '(?P<id>[^']+)'")
# The arguments of tasks.ImportFailed, as they stand in its repr.
_FAILED: Final = re.compile(
    r"ImportFailed\((['\"])(?P<code>.*?)\1, (['\"])(?P<reason>.*?)\3, \{.*", re.DOTALL
)
_TEXTS: Final = ("args", "kwargs", "result", "exception", "traceback")


def redact(text: str) -> str:
    """The text with everything that looks like a secret taken out."""
    return _SECRET.sub(r"\g<name>***", _IN_ADDRESS.sub(r"\1***@", text))


def readable(args: str) -> str:
    """Arguments as a person reads them: which image, from which file."""
    found = _TICKET.search(args)
    try:
        ticket = ast.literal_eval(found[0]) if found else None
    except (ValueError, SyntaxError):
        return args
    if not isinstance(ticket, dict) or "image_url" not in ticket:
        return args
    return f"{ticket.get('name')} from {ticket['image_url']}"


def tidy(event: dict[str, Any]) -> dict[str, Any]:
    """An event without secrets: what Flower never hears it cannot show, save or give away."""
    texts = {name: redact(str(event[name])) for name in _TEXTS if event.get(name)}
    return event | texts


def format_task(task: Any) -> Any:
    """A task as its row and page show it: what is imported, and what came of it."""
    if task.args:
        task.args = readable(task.args)
    if task.kwargs == "{}":
        task.kwargs = ""
    for name in ("result", "exception"):
        if text := getattr(task, name, None):
            setattr(task, name, _short(outcome(text)))
    if task.exception and not task.result:
        task.result = task.exception
    return task


def outcome(text: str) -> str:
    """A result or exception in a few words: the image, or the code and the reason."""
    if made := _IMAGE_ID.search(text):
        return f"image {made['id']}"
    if failed := _FAILED.match(text):
        return f"{failed['code']}: {failed['reason']}"
    return "" if _TICKET.fullmatch(text) else text


def _short(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGINT or SIGTERM."""
    given = _arguments().parse_args(argv)
    settings = FlowerSettings()
    configure_logging(settings)
    # Flower defines its options, counters and defaults as it is imported: only where it runs.
    from flower.command import apply_env_options, extract_settings, setup_logging  # noqa: PLC0415
    from flower.urls import settings as web  # noqa: PLC0415
    from tornado.options import options  # noqa: PLC0415

    _set_options(options, given)
    apply_env_options()
    made = _protect(options, settings)
    extract_settings()
    setup_logging()
    celery = make_celery(settings)
    celery.set_default()
    server = _server(celery, options, web)
    port = server.start_http_server()
    _say(options.address, port, made)
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
        "--allow-writes", action="store_true", help="let pages revoke tasks and stop workers"
    )
    return parser


def _set_options(options: Any, given: argparse.Namespace) -> None:
    given.db.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    options.address = given.host
    options.port = given.port
    options.db = str(given.db)
    options.persistent = True
    options.state_save_interval = SAVE_EVERY_MS
    options.purge_offline_workers = PURGE_WORKERS_S
    options.read_only = not given.allow_writes
    options.tasks_columns = COLUMNS
    options.format_task = format_task


def _protect(options: Any, settings: FlowerSettings) -> str | None:
    """Make sure that a password is asked for; returns the one that was made up for it."""
    if options.basic_auth or options.auth:
        return None
    if settings.flower_basic_auth is not None:
        options.basic_auth = [settings.flower_basic_auth.get_secret_value()]
        return None
    made = f"admin:{secrets.token_urlsafe(12)}"
    options.basic_auth = [made]
    return made


def _server(celery: Any, options: Any, web: dict[str, Any]) -> Any:
    from flower.app import Flower  # noqa: PLC0415  # as in main
    from flower.events import Events  # noqa: PLC0415  # as in main
    from tornado.ioloop import IOLoop  # noqa: PLC0415  # as in main

    class TidyEvents(Events):  # type: ignore[misc]  # Flower is untyped
        def on_event(self, event: dict[str, Any]) -> None:
            super().on_event(tidy(event))

    events = TidyEvents(
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


def _say(host: str, port: int, made: str | None) -> None:
    shown = f"http://{host}:{port}"
    if made is None:
        print(f"Flower is at {shown}", flush=True)  # noqa: T201  # a command's output
        return
    user, _, password = made.partition(":")
    print(  # noqa: T201  # a command's output
        f"Flower is at {shown} (user {user}, password {password}; "
        "set IMS_IMPORT_FLOWER_BASIC_AUTH=user:password for one that stays)",
        flush=True,
    )


def _serve(server: Any) -> None:
    atexit.register(server.stop)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    # The history is saved at exit.
    with suppress(KeyboardInterrupt, SystemExit):
        server.start()


if __name__ == "__main__":
    sys.exit(main())
