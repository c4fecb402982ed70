"""What can be wrong between a caller and the ledger.

* NoSuchImport        there is no import of this id
* NoSuchKey           there is no API key of this id
* NoSuchWebhook       there is no webhook of this id
* NoSuchDelivery      there is no delivery of this id
* KeyConflict         the idempotency key stands for another request
* ConcurrentTransition           somebody else moved the import first
* InvalidState              what a person asked for does not fit how the import stands
* IllegalTransition          the life of an import has no such arrow: a defect of the caller
* LedgerUnavailable   the database cannot be reached or is locked: try again
* LedgerOutdated      the tables are missing or old: migrate
"""

from ims_config.records import ImportRecord


class NoSuchImport(LookupError):
    """No import has this id."""

    def __init__(self, import_id: str) -> None:
        super().__init__(import_id)
        self.import_id = import_id

    def __str__(self) -> str:
        return f"no such import: {self.import_id}"


class NoSuchKey(LookupError):
    """No API key has this id."""

    def __init__(self, key_id: str) -> None:
        super().__init__(key_id)
        self.key_id = key_id

    def __str__(self) -> str:
        return f"no such key: {self.key_id}; see: ims-import keys list"


class NoSuchWebhook(LookupError):
    """No webhook has this id."""

    def __init__(self, webhook_id: str) -> None:
        super().__init__(webhook_id)
        self.webhook_id = webhook_id

    def __str__(self) -> str:
        return f"no such webhook: {self.webhook_id}; see: ims-import webhooks list"


class NoSuchDelivery(LookupError):
    """No delivery has this id."""

    def __init__(self, delivery_id: str) -> None:
        super().__init__(delivery_id)
        self.delivery_id = delivery_id

    def __str__(self) -> str:
        return f"no such delivery: {self.delivery_id}; see: ims-import webhooks deliveries"


class KeyConflict(Exception):
    """The key was used for a request that differs; `existing` is the import it stands for."""

    def __init__(self, existing: ImportRecord) -> None:
        super().__init__(
            f"key {existing.key!r} stands for another request: import {existing.id} of "
            f"{existing.name!r}"
        )
        self.existing = existing


class ConcurrentTransition(Exception):
    """Somebody else moved this import first; `current` is how it stands now."""

    def __init__(self, current: ImportRecord) -> None:
        super().__init__(f"import {current.id} is {current.state} (version {current.version})")
        self.current = current


class InvalidState(Exception):
    """What was asked for does not fit how the import stands; `current` is how that is."""

    def __init__(self, current: ImportRecord, why: str) -> None:
        super().__init__(f"import {current.id} is {current.state}: {why}")
        self.current = current


class IllegalTransition(Exception):
    """There is no such arrow in the life of an import."""


class LedgerUnavailable(Exception):
    """The database cannot be reached, or stayed locked for too long."""


class LedgerOutdated(Exception):
    """The database has no tables of ours, or those of another version."""
