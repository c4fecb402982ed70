"""`ledger adopt`: makes the ledger of this machine the one that the workers use."""

from typing import Annotated

import typer

import ims_producer

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Manage the ledger, the database of all imports.",
)


@app.command()
def adopt(
    *,
    as_json: Annotated[bool, typer.Option("--json", help='Print {"id", "previous"}.')] = False,
) -> None:
    """Make this ledger the current one.

    The first worker publishes the id of its ledger in Redis. Requests are recorded only in that
    ledger, and only workers with that ledger run. Adopt another one after you restored or moved
    the database; workers with the previous ledger stop.

    \b
    Example:
      IMS_IMPORT_LEDGER_URL=sqlite:////srv/ims-import/ledger.db \\
          ims-import ledger adopt
    """
    from ims_producer.cli import render

    with ims_producer.Client() as client:
        adopted = client.adopt_ledger()
    if as_json:
        render.print_json(adopted)
    elif adopted.previous in (None, adopted.id):
        print(f"current ledger: {adopted.id}")
    else:
        print(f"current ledger: {adopted.id}; until now: {adopted.previous}")
        render.print_note(
            "Workers with the previous ledger stop within seconds; start them with this one. "
            "Imports that are open in the previous ledger continue only if you adopt it again."
        )
