"""The commands and what they have in common."""

import sys
from typing import Annotated

import typer

from ims_producer.cli import (
    deciding,
    doctor,
    keys,
    manifests,
    processes,
    reading,
    submit,
    webhooks,
)
from ims_producer.cli.exit_codes import Exit, friendly_errors

# Plain help: it reads the same in a pipe, and rich would double the time until it is there.
app = typer.Typer(
    name="ims-import",
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    help="""Import disk image files into Open Telekom Cloud's Image Management Service.

    Imports run in the background on workers and are remembered until they have ended.

    \b
    Try it here, without a cloud:   ims-import demo
    Import a file:                  ims-import submit my-bucket:ubuntu.qcow2 --name ubuntu \\
                                        --min-disk 40 --os-version "Ubuntu 24.04 server 64bit"
    See how it stands:              ims-import list
    Something is not right:         ims-import doctor

    \b
    Exit codes: 0 done, 1 an import failed, 2 usage or invalid request, 3 stopped waiting (still
    tracked), 4 credentials refused, 5 queue or ledger unreachable, 6 uncertain, needs a person.
    """,
)

app.command("submit")(submit.submit)
app.command("show")(reading.show)
app.command("list")(reading.list_imports)
app.command("watch")(reading.watch)
app.command("plan")(manifests.plan)
app.command("apply")(manifests.apply)
for decide in (
    deciding.cancel,
    deciding.retry,
    deciding.resolve,
    deciding.adopt,
    deciding.resume,
    deciding.gc,
    deciding.prune,
):
    app.command(decide.__name__)(decide)
app.command("doctor")(doctor.doctor)
app.add_typer(keys.app, name="keys")
app.add_typer(webhooks.app, name="webhooks")
processes.add_to(app)


def _say_version(asked: bool) -> None:  # noqa: FBT001  # typer calls it so
    if asked:
        from importlib.metadata import version

        print(f"ims-import {version('ims-import')}")
        raise typer.Exit


@app.callback()
def _common(
    *,
    version: Annotated[  # _say_version has used it by then
        bool,
        typer.Option("--version", callback=_say_version, is_eager=True, help="Say the version."),
    ] = False,
) -> None:
    pass


def run() -> None:
    """Run the command that was asked for and end with its exit code."""
    try:
        with friendly_errors():
            app()
    except KeyboardInterrupt:
        print("ims-import: interrupted; imports go on in the background", file=sys.stderr)
        sys.exit(Exit.INTERRUPTED)
    except BrokenPipeError:
        # `ims-import list | head`: the reader has seen enough.
        sys.stderr.close()
        sys.exit(Exit.DONE)
