"""The exit codes of the program, and the code and message of each error."""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from pydantic import ValidationError

    from ims_config.records import ImportRecord
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


# Of several imports the first of these codes counts.
_WORST_FIRST = (Exit.FAILED, Exit.UNCERTAIN, Exit.CREDENTIALS, Exit.STILL_TRACKED)


def exit_code_of(*records: "ImportRecord") -> Exit:
    """The exit code of a command that waited for these imports and stops waiting now."""
    codes = {_exit_code(record) for record in records}
    return next((code for code in _WORST_FIRST if code in codes), Exit.DONE)


def _exit_code(record: "ImportRecord") -> Exit:
    from ims_config.records import State

    match record.state:
        case State.SUCCEEDED:
            return Exit.DONE
        case State.FAILED | State.CANCELED:
            return Exit.FAILED
        case State.UNCERTAIN if record.needs_a_person:
            return Exit.UNCERTAIN
        case _:
            return Exit.CREDENTIALS if record.credentials_refused else Exit.STILL_TRACKED


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


@contextmanager
def friendly_errors() -> Iterator[None]:
    """Turn every error that a user can cause or meet into a message and an exit code."""
    try:
        yield
    except Exception as exc:
        _stop_for(exc)
        raise


def _stop_for(exc: Exception) -> None:
    """Exit with the code and message of an error; return if it is a defect."""
    # These imports cost more time than `--help` may take.
    from pydantic import ValidationError

    from ims_config.import_request import InvalidRequest
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
            stop(Exit.USAGE, *_invalid_settings(exc))
        case KeyRefused():
            stop(Exit.CREDENTIALS, *exc.problems)
        case WorkerRefused():
            stop(Exit.FAILED, str(exc), exc.failure.hint)
        case ApiUnavailable() | WorkerUnavailable():
            stop(Exit.UNREACHABLE, str(exc), "run: ims-import doctor")
        case ledger.LedgerOutdated():
            stop(Exit.UNREACHABLE, str(exc), "run: ims-import doctor --migrate")
        case ledger.LedgerUnavailable():
            stop(Exit.UNREACHABLE, f"ledger: {exc}", "run: ims-import doctor")


def _invalid_settings(exc: "ValidationError") -> Iterator[str]:
    from ims_config.settings import PREFIX
    from ims_config.validation import field_errors

    # Values are left out: a setting may be a password.
    for error in field_errors(exc, show_values=False):
        yield f"setting {PREFIX}{error.field.upper()}: {error.rule}"
