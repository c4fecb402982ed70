"""Rows of the imports table as records."""

from collections.abc import Mapping
from typing import Final, cast

from sqlalchemy import Connection, RowMapping, Table, select

from ims_config.records import ImportRecord, ImportResult
from ims_ledger.errors import NotFound
from ims_ledger.tables import EventRow, ImportRow

imports: Final = cast("Table", ImportRow.__table__)
events: Final = cast("Table", EventRow.__table__)


def record_of(row: Mapping[str, object] | RowMapping) -> ImportRecord:
    return ImportRecord.model_validate(dict(row))


def result_of(row: Mapping[str, object] | RowMapping) -> ImportResult:
    return ImportResult.model_validate(dict(row))


def read(db: Connection, import_id: str) -> ImportResult:
    """The import as it is in this transaction. Raises NotFound."""
    row = db.execute(select(imports).where(imports.c.id == import_id)).mappings().first()
    if row is None:
        raise NotFound("import", import_id)
    return result_of(row)
