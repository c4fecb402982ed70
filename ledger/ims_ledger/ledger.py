"""The ledger of one database: its parts, its migration and its connections."""

from collections.abc import Callable
from datetime import UTC, datetime
from functools import cached_property

from sqlalchemy import select

from ims_ledger.api_keys import ApiKeys
from ims_ledger.database import open_engine, transaction
from ims_ledger.imported_objects import ImportedObjects
from ims_ledger.imports import Imports
from ims_ledger.outbox import Outbox
from ims_ledger.tables import LedgerRow
from ims_ledger.transitions import Transitions
from ims_ledger.webhook_endpoints import WebhookEndpoints


def utc_now() -> datetime:
    return datetime.now(UTC)


class Ledger:
    """Thread-safe. Open it after a fork, not before.

    Every method of it and of its parts may raise LedgerUnavailable and LedgerOutdated.
    """

    def __init__(self, url: str, *, now: Callable[[], datetime] = utc_now) -> None:
        self._engine = open_engine(url)
        self.imports = Imports(self._engine, now)
        self.transitions = Transitions(self._engine, now)
        self.outbox = Outbox(self._engine, now)
        self.webhook_endpoints = WebhookEndpoints(self._engine, now)
        self.api_keys = ApiKeys(self._engine, now)
        self.imported_objects = ImportedObjects(self._engine, now)

    @cached_property
    def id(self) -> str:
        """The UUID of this ledger; a copy of the database is the same ledger."""
        with transaction(self._engine, write=False) as db:
            return db.execute(select(LedgerRow.id)).scalar_one()

    def migrate(self) -> None:
        """Bring the tables to this version; several processes may do so at the same time."""
        from ims_ledger.migrate import to_head  # noqa: PLC0415  # Alembic only where it is used

        to_head(self._engine)

    def is_current(self) -> bool:
        from ims_ledger.migrate import at_head  # noqa: PLC0415  # as above

        return at_head(self._engine)

    def close(self) -> None:
        self._engine.dispose()


def open_ledger(url: str, *, now: Callable[[], datetime] = utc_now) -> Ledger:
    """Open a ledger; SQLite is migrated by the first process that opens it, PostgreSQL never.

    PostgreSQL is shared by several hosts, where an operator decides when to migrate.
    """
    ledger = Ledger(url, now=now)
    if url.startswith("sqlite"):
        ledger.migrate()
    return ledger
