"""`doctor`: checks the installation and prints a fix for each failed check."""

from typing import TYPE_CHECKING, Annotated

import typer

import ims_producer
from ims_producer.cli.exit_codes import exit_code_of_checks
from ims_producer.cli.options import ArrayAsJson

if TYPE_CHECKING:
    from ims_producer.checks import Check


def doctor(
    *,
    cloud: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Check this cloud; repeatable. Default: the worker's."),
    ] = None,
    migrate: Annotated[
        bool, typer.Option("--migrate", help="Upgrade the ledger's tables first; not over HTTP.")
    ] = False,
    ledger_only: Annotated[
        bool, typer.Option("--ledger-only", help="Check only the ledger; needs no worker.")
    ] = False,
    as_json: ArrayAsJson = False,
) -> None:
    """Check Redis, broker, ledger, workers, logins and quotas.

    Also checks polls and bucket rules. A worker checks logins and quotas, because only workers
    hold credentials. Exit code 0 if no check fails (skipped ones do not count); otherwise that of
    the first failed check: 4 if credentials are refused, 5 for everything else.

    \b
    Examples:
      ims-import doctor
      ims-import doctor --cloud otc-prod --cloud otc-test
      ims-import doctor --ledger-only --migrate
    """
    from ims_producer.cli import render

    checks: list[Check] = []
    with ims_producer.Client() as client:
        for check in (
            [client.check_ledger(migrate=migrate)]
            if ledger_only
            else client.run_checks(cloud or [], migrate=migrate)
        ):
            checks.append(check)
            if not as_json:
                render.print_check(check)
    if as_json:
        render.print_json(checks)
    raise SystemExit(int(exit_code_of_checks(checks)))
