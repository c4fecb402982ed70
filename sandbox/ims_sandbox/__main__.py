"""`python -m ims_sandbox demo|up|cloud|bucket`: runs the product on one machine."""

import json
import signal
from pathlib import Path
from typing import Annotated, Final

import typer

_ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="A simulated cloud on this machine.",
)


def main() -> None:
    """Run one of the sandbox's commands in the foreground."""
    # A supervisor's SIGTERM is handled like Ctrl-C, so that everything is cleaned up.
    for number in _ENDING:
        signal.signal(number, _interrupt)
    app(prog_name="ims-import sandbox")


def _interrupt(*_: object) -> None:
    # A second signal must not interrupt the cleanup.
    for number in _ENDING:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


@app.command("demo")
def _demo() -> None:
    """Import four image files and show the progress."""
    from ims_sandbox.demo import demo

    raise typer.Exit(demo())


@app.command("up")
def _up(
    *, workers: Annotated[int, typer.Option(metavar="N", help="Number of worker processes.")] = 1
) -> None:
    """Run the whole stack until Ctrl-C."""
    from ims_sandbox.demo import up

    raise typer.Exit(up(workers=workers))


@app.command("cloud")
def _cloud(
    *,
    port: Annotated[
        int | None, typer.Option(metavar="PORT", help="Port to listen on; default: a free one.")
    ] = None,
    options: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A JSON file with job durations, logins and more."),
    ] = None,
) -> None:
    """Run only the simulation of IAM and IMS.

    \b
    Examples:
      ims-import sandbox cloud --port 8774
      echo '{"job_seconds": [20, 40], "show_percent": false}' > slow.json
      ims-import sandbox cloud --options slow.json
      curl http://127.0.0.1:8774/admin/books

    Options, faults and admin calls: docs/sandbox.md
    """
    from ims_sandbox.cloud import serve
    from ims_sandbox.cloud.options import parse_options

    values = json.loads(options.read_text()) if options else {}
    if port is not None:
        values["port"] = port
    serve(parse_options(values))


@app.command("bucket")
def _bucket(*, port: Annotated[int, typer.Option(metavar="PORT", help="Port.")] = 9000) -> None:
    """Run only the object storage."""
    from ims_sandbox.bucket import serve

    serve(port)


if __name__ == "__main__":
    main()
