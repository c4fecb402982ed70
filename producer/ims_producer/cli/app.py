"""The command line: registers the commands and turns errors into exit codes.

Modules imported here load Celery, pydantic, requests and SQLAlchemy only inside functions, so that
`--help` starts fast.
"""

import os
import sys
from typing import Annotated

import typer

from ims_producer.cli import (
    clouds,
    doctor,
    imports,
    keys,
    ledger,
    manifests,
    processes,
    submit,
    webhooks,
)
from ims_producer.cli.exit_codes import Exit, stop_for

# Plain help looks the same in a pipe, and rich doubles the time to print it.
app = typer.Typer(
    name="ims-import",
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    help="""Import disk image files into Open Telekom Cloud's Image Management Service.

    Workers run imports in the background and track each one until it ends.

    \b
    Try it without a cloud:  ims-import demo
    Import a file:           ims-import submit my-bucket:ubuntu.qcow2 \\
                               --name ubuntu --min-disk 40 \\
                               --os-version "Ubuntu 24.04 server 64bit"
    Show all imports:        ims-import list
    Find problems:           ims-import doctor

    \b
    Exit codes: 0 done, 1 an import failed, 2 usage or invalid request,
    3 stopped waiting (still tracked), 4 credentials refused,
    5 queue, ledger or API unreachable or wrong, 6 uncertain, needs a person.
    """,
)

app.command("submit")(submit.submit)
app.command("show")(imports.show)
app.command("list")(imports.list_imports)
app.command("watch")(imports.watch)
app.command("plan")(manifests.plan)
app.command("apply")(manifests.apply)
app.command("cancel")(imports.cancel)
app.command("retry")(imports.retry)
app.command("resolve")(imports.resolve)
app.command("adopt")(imports.adopt)
app.command("resume")(clouds.resume)
app.command("gc")(clouds.gc)
app.command("prune")(imports.prune)
app.command("doctor")(doctor.doctor)
app.add_typer(keys.app, name="keys")
app.add_typer(webhooks.app, name="webhooks")
app.add_typer(ledger.app, name="ledger")
pass_through = {"allow_extra_args": True, "ignore_unknown_options": True}
app.command("worker", context_settings=pass_through)(processes.worker)
app.command("api")(processes.api)
# These programs print their own help.
for program in (processes.flower, processes.sandbox, processes.demo):
    app.command(program.__name__, context_settings=pass_through, add_help_option=False)(program)


def _print_version(requested: bool) -> None:  # noqa: FBT001  # the signature that typer calls
    if requested:
        from importlib.metadata import version

        print(f"ims-import {version('ims-import')}")
        raise typer.Exit


@app.callback()
def _common(
    context: typer.Context,
    *,
    version: Annotated[  # noqa: ARG001  # its callback does the work
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    # The log of these three holds the warning.
    logs = context.invoked_subcommand in ("worker", "api", "flower")
    if not logs and not {"-h", "--help"} & {*sys.argv}:
        from ims_config.settings import unknown_variables

        for name, closest in unknown_variables(os.environ).items():
            hint = f"; did you mean {closest}?" if closest else ""
            print(f"ims-import: warning: {name} is not a setting{hint}", file=sys.stderr)


def run() -> None:
    """Run the command of the arguments and exit with its code."""
    try:
        app()
    except KeyboardInterrupt:
        print("ims-import: interrupted; imports continue in the background", file=sys.stderr)
        sys.exit(Exit.INTERRUPTED)
    except BrokenPipeError:
        # The reader of a pipe ended first, as in `ims-import list | head`.
        sys.stderr.close()
        sys.exit(Exit.DONE)
    except Exception as exc:
        stop_for(exc)
        raise
