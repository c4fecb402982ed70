"""What is remembered: every import, every step it took, and how it ended."""

from typing import TYPE_CHECKING, Any

from ims_ledger.errors import (
    ConcurrentTransition,
    IllegalTransition,
    InvalidState,
    KeyConflict,
    LedgerOutdated,
    LedgerUnavailable,
    NoSuchDelivery,
    NoSuchImport,
    NoSuchKey,
    NoSuchWebhook,
)

if TYPE_CHECKING:
    from ims_ledger.ledger import Ledger

__all__ = [
    "ConcurrentTransition",
    "IllegalTransition",
    "InvalidState",
    "KeyConflict",
    "Ledger",
    "LedgerOutdated",
    "LedgerUnavailable",
    "NoSuchDelivery",
    "NoSuchImport",
    "NoSuchKey",
    "NoSuchWebhook",
]


def __getattr__(name: str) -> Any:
    # SQLAlchemy costs a fifth of a second: only who opens a ledger pays it.
    if name == "Ledger":
        from ims_ledger.ledger import Ledger  # noqa: PLC0415  # see above

        return Ledger
    raise AttributeError(name)
