"""Objects that bucket rules have imported; the entries are never deleted."""

from collections.abc import Callable, Collection, Mapping
from datetime import datetime
from typing import Any, Final, NamedTuple, cast

from sqlalchemy import Engine, Table, select
from sqlalchemy.dialects import postgresql, sqlite

from ims_ledger.database import transaction
from ims_ledger.tables import ImportedObjectRow

watched = cast("Table", ImportedObjectRow.__table__)

# Databases limit the number of values in one statement.
_AT_ONCE: Final = 500
# Standard SQL has no upsert; both databases have the same.
_INSERT: Final[dict[str, Any]] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}


class Imported(NamedTuple):
    """An imported object with the ETag it had."""

    image_url: str
    etag: str
    import_id: str


class ImportedObjects:
    """Every method may raise LedgerUnavailable and LedgerOutdated."""

    def __init__(self, engine: Engine, now: Callable[[], datetime]) -> None:
        self._engine = engine
        self._now = now

    def etags(self, rule: str, image_urls: Collection[str]) -> Mapping[str, str]:
        """URL to ETag of those objects that were imported, as of their last import."""
        found: dict[str, str] = {}
        urls = sorted(image_urls)
        with transaction(self._engine, write=False) as db:
            for start in range(0, len(urls), _AT_ONCE):
                mine = watched.c.image_url.in_(urls[start : start + _AT_ONCE])
                query = select(watched.c.image_url, watched.c.etag)
                rows = db.execute(query.where(watched.c.rule == rule, mine))
                found |= {row.image_url: row.etag for row in rows}
        return found

    def remember(self, rule: str, objects: Collection[Imported]) -> None:
        """Store imported objects; newer entries replace older ones."""
        now = self._now()
        rows = [{"rule": rule, "at": now, **one._asdict()} for one in objects]
        if not rows:
            return
        new = _INSERT[self._engine.dialect.name](watched)
        newer = {name: new.excluded[name] for name in ("etag", "import_id", "at")}
        upsert = new.on_conflict_do_update(index_elements=["rule", "image_url"], set_=newer)
        with transaction(self._engine, write=True) as db:
            db.execute(upsert, rows)
