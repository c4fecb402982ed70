"""The exit codes of the program, and the code and message of each error."""

import sys
from collections.abc import Iterable
from enum import IntEnum
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from ims_config.records import ImportRecord
    from ims_ledger.errors import Unavailable
    from ims_producer.checks import Check


class Exit(IntEnum):
    """Scripts rely on these numbers."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    STILL_TRACKED = 3
    CREDENTIALS = 4
    UNREACHABLE = 5
    UNCERTAIN = 6
    INTERRUPTED = 130


def exit_code_of(*records: "ImportRecord") -> Exit:
    """The exit code of a command that waited for these imports and stops waiting now."""
    from ims_config.records import State

    states = {record.state for record in records}
    if states & {State.FAILED, State.CANCELED}:
        return Exit.FAILED
    if any(record.needs_a_person for record in records):
        return Exit.UNCERTAIN
    if any(record.credentials_refused for record in records):
        return Exit.CREDENTIALS
    return Exit.DONE if states <= {State.SUCCEEDED} else Exit.STILL_TRACKED


def exit_code_of_checks(checks: "Iterable[Check]") -> Exit:
    """The exit code of the first check that failed."""
    for check in checks:
        if check.ok is False:
            return Exit.CREDENTIALS if check.about == "credentials" else Exit.UNREACHABLE
    return Exit.DONE


def stop(code: Exit, *lines: str) -> NoReturn:
    """Print lines to stderr and exit."""
    for line in lines:
        print(f"ims-import: {line}", file=sys.stderr)
    raise SystemExit(int(code))


def stop_for(exc: Exception) -> None:
    """Exit with the code and message of an error that users cause or meet; return for a defect."""
    # These imports cost more time than `--help` may take.
    from pydantic import ValidationError

    from ims_config.import_request import InvalidRequest
    from ims_config.settings import PREFIX
    from ims_config.validation import field_errors
    from ims_ledger import errors as ledger
    from ims_producer.errors import ApiUnavailable, KeyRefused, WorkerRefused, WorkerUnavailable

    match exc:
        case InvalidRequest():
            stop(Exit.USAGE, *exc.problems)
        case ledger.ConcurrentTransition():
            stop(Exit.USAGE, f"{exc}: it changed at the same moment; try again")
        case ledger.NotFound() | ledger.Conflict():
            stop(Exit.USAGE, str(exc))
        case ValidationError():
            # Values are left out: a setting may be a password.
            errors = field_errors(exc, show_values=False)
            stop(Exit.USAGE, *(f"setting {PREFIX}{e.field.upper()}: {e.rule}" for e in errors))
        case KeyRefused():
            stop(Exit.CREDENTIALS, *exc.problems)
        case WorkerRefused():
            stop(Exit.FAILED, str(exc), exc.failure.hint)
        case ApiUnavailable() | WorkerUnavailable():
            stop(Exit.UNREACHABLE, str(exc), "run: ims-import doctor")
        case ledger.Unavailable():
            stop(Exit.UNREACHABLE, *_ledger_lines(exc))


def _ledger_lines(exc: "Unavailable") -> tuple[str, str]:
    """What is wrong with the ledger, and what to do about it."""
    from ims_ledger import errors as ledger
    from ims_producer.errors import LEDGER_OPTIONS

    match exc:
        case ledger.LedgerOutdated():
            return str(exc), "run: ims-import doctor --migrate"
        case ledger.LedgerNotCurrent():
            return f"nothing was recorded: {exc}", LEDGER_OPTIONS
        case _:
            return f"ledger: {exc}", "run: ims-import doctor"
