"""Errors of the ledger: NotFound, Conflict and Unavailable are their kinds."""

from typing import Final, Literal

from ims_config.records import ImportRecord

Kind = Literal["import", "key", "webhook", "delivery"]

_WHERE_TO_LOOK: Final[dict[Kind, str]] = {
    "import": "",
    "key": "; see: ims-import keys list",
    "webhook": "; see: ims-import webhooks list",
    "delivery": "; see: ims-import webhooks deliveries",
}


class LedgerError(Exception):
    """Every error that the ledger raises on purpose."""


class NotFound(LedgerError, LookupError):
    """Nothing of this kind has this id."""

    def __init__(self, kind: Kind, item_id: str) -> None:
        super().__init__(kind, item_id)
        self.kind: Kind = kind
        self.id = item_id

    def __str__(self) -> str:
        return f"no such {self.kind}: {self.id}{_WHERE_TO_LOOK[self.kind]}"


class Conflict(LedgerError):
    """The request does not fit what the ledger holds; `current` is the import in question."""

    def __init__(self, current: ImportRecord, message: str) -> None:
        super().__init__(message)
        self.current = current


class KeyConflict(Conflict):
    """The idempotency key belongs to a different request."""

    def __init__(self, current: ImportRecord) -> None:
        super().__init__(
            current,
            f"key {current.key!r} belongs to a different request: import {current.id} of "
            f"{current.name!r}",
        )


class ConcurrentTransition(Conflict):
    """Another process moved this import first."""

    def __init__(self, current: ImportRecord) -> None:
        super().__init__(
            current, f"import {current.id} is {current.state} (version {current.version})"
        )


class InvalidState(Conflict):
    """The operation is not possible in the import's state; `rule` says why."""

    def __init__(self, current: ImportRecord, rule: str) -> None:
        super().__init__(current, f"import {current.id} is {current.state}: {rule}")
        self.rule = rule


class IllegalTransition(LedgerError):
    """The transition table does not allow this: a defect of the caller."""


class Unavailable(LedgerError):
    """The ledger cannot be used at the moment."""


class LedgerUnavailable(Unavailable):
    """The database cannot be reached, or stayed locked for too long: try again."""


class LedgerOutdated(Unavailable):
    """The tables are missing or belong to another version: migrate."""


class LedgerNotCurrent(Unavailable):
    """The workers use another ledger, so none of them would see what is recorded in this one."""

    def __init__(self, own: str, current: str) -> None:
        super().__init__(own, current)
        self.own = own
        self.current = current

    def __str__(self) -> str:
        return f"this ledger is {self.own}, but the workers use {self.current}"
