"""The ledger: every import, its transitions and its result, in SQLite or PostgreSQL."""

from typing import TYPE_CHECKING, Any

from ims_ledger.errors import (
    ConcurrentTransition,
    Conflict,
    IllegalTransition,
    InvalidState,
    KeyConflict,
    LedgerError,
    LedgerNotCurrent,
    LedgerOutdated,
    LedgerUnavailable,
    NotFound,
    Unavailable,
)

if TYPE_CHECKING:
    from ims_ledger.ledger import Ledger, open_ledger

__all__ = [
    "ConcurrentTransition",
    "Conflict",
    "IllegalTransition",
    "InvalidState",
    "KeyConflict",
    "Ledger",
    "LedgerError",
    "LedgerNotCurrent",
    "LedgerOutdated",
    "LedgerUnavailable",
    "NotFound",
    "Unavailable",
    "open_ledger",
]


def __getattr__(name: str) -> Any:
    # SQLAlchemy takes 0.2 s to import: only processes that open a ledger pay for it.
    if name in {"Ledger", "open_ledger"}:
        from ims_ledger import ledger  # noqa: PLC0415  # see above

        return getattr(ledger, name)
    raise AttributeError(name)
