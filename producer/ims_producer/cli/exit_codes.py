"""What the program's exit codes mean, and which error has which."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from pydantic import ValidationError


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


def stop(code: Exit, *lines: str) -> NoReturn:
    """End the program with what a person should know, on stderr."""
    for line in lines:
        print(f"ims-import: {line}", file=sys.stderr)
    raise SystemExit(int(code))


@contextmanager
def friendly_errors() -> Iterator[None]:
    """Every error a user can cause or meet becomes a line and a code, never a traceback."""
    # Imported when something is asked for: they cost more than `--help` may take.
    from pydantic import ValidationError

    from ims_config.import_request import InvalidRequest
    from ims_ledger.errors import (
        ConcurrentTransition,
        InvalidState,
        KeyConflict,
        LedgerOutdated,
        LedgerUnavailable,
        NoSuchDelivery,
        NoSuchImport,
        NoSuchKey,
        NoSuchWebhook,
    )
    from ims_producer.errors import ApiUnavailable, KeyRefused

    try:
        yield
    except InvalidRequest as exc:
        stop(Exit.USAGE, *exc.problems)
    except (
        KeyConflict,
        NoSuchDelivery,
        NoSuchImport,
        NoSuchKey,
        NoSuchWebhook,
        InvalidState,
    ) as exc:
        stop(Exit.USAGE, str(exc))
    except ConcurrentTransition as exc:
        stop(Exit.USAGE, f"{exc}: it was moved in this very moment; try again")
    except ValidationError as exc:
        stop(Exit.USAGE, *_settings_problems(exc))
    except KeyRefused as exc:
        stop(Exit.CREDENTIALS, *str(exc).splitlines())
    except ApiUnavailable as exc:
        stop(Exit.UNREACHABLE, f"API: {exc}", "run: ims-import doctor")
    except LedgerOutdated as exc:
        stop(Exit.UNREACHABLE, str(exc), "run: ims-import doctor --migrate")
    except LedgerUnavailable as exc:
        stop(Exit.UNREACHABLE, f"ledger: {exc}", "run: ims-import doctor")


def _settings_problems(exc: "ValidationError") -> Iterator[str]:
    from ims_config.settings import PREFIX

    # Values are left out: a setting may be a password.
    for error in exc.errors(include_url=False, include_input=False, include_context=False):
        name = ".".join(str(part) for part in error["loc"]).upper()
        yield f"setting {PREFIX}{name}: {error['msg'].replace('Input should be', 'must be')}"
