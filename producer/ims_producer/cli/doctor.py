"""`ims-import doctor`: what works, what does not, and how to mend it."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from ims_producer.cli.exit_codes import Exit

if TYPE_CHECKING:
    from rich.console import Console

    from ims_producer.checks import Check


def doctor(
    *,
    cloud: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Entry of the worker's clouds.yaml; may be repeated. Else its default.",
        ),
    ] = None,
    migrate: Annotated[
        bool, typer.Option("--migrate", help="Bring the ledger's tables up to date first.")
    ] = False,
    ledger_only: Annotated[
        bool, typer.Option("--ledger-only", help="Check nothing else: no worker needs to run.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print an array of checks.")] = False,
) -> None:
    """Check Redis, broker, ledger, workers and (asked of a worker) login and quota.

    Exit code 0 if all is well, 4 if credentials are refused, 5 if something is unreachable.

    \b
    Examples:
      ims-import doctor
      ims-import doctor --cloud otc-prod --cloud otc-test
      ims-import doctor --ledger-only --migrate
    """
    from rich.console import Console

    from ims_producer.checks import check_ledger
    from ims_producer.client import Client

    console = Console(highlight=False)
    checks: list[Check] = []
    with Client() as client:
        found = (
            [check_ledger(client, migrate=migrate)]
            if ledger_only
            else client.run_checks(cloud or [None], migrate=migrate)
        )
        for check in found:
            checks.append(check)
            if not as_json:
                _print(console, check)
    if as_json:
        print(json.dumps([asdict(check) for check in checks]))
    raise SystemExit(int(exit_of(checks)))


def _print(console: "Console", check: "Check") -> None:
    from rich.text import Text

    word, style = {True: ("ok", "green"), False: ("FAIL", "red"), None: ("-", "dim")}[check.ok]
    line = Text.assemble((f"{word:<6}", style), f"{check.name:<24}", check.found)
    console.print(line, soft_wrap=True)
    if check.fix:
        console.print(Text(f"{'':<30}{check.fix}", style="bold"), soft_wrap=True)


def exit_of(checks: "Sequence[Check]") -> Exit:
    """The code of the first check that failed."""
    for check in checks:
        if check.ok is False:
            return Exit.CREDENTIALS if check.about == "credentials" else Exit.UNREACHABLE
    return Exit.DONE
