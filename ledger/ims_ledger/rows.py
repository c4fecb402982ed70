"""Rows of the imports table as records."""

from collections.abc import Mapping
from typing import Any, Final, cast

from sqlalchemy import Connection, RowMapping, Table, select

from ims_config.import_request import upgrade_request
from ims_config.records import ImportRecord, ImportResult, Origin
from ims_ledger.errors import NotFound
from ims_ledger.tables import EventRow, ImportRow

imports: Final = cast("Table", ImportRow.__table__)
events: Final = cast("Table", EventRow.__table__)


# What an adopted import stores in columns that the first schema made NOT NULL. Workers of
# version 0.1 recognize it by this URL.
NOT_REQUESTED: Final[Mapping[str, object]] = {
    "kind": "system", "image_url": "unknown:adopted", "request": {},
}  # fmt: skip


def record_of(row: Mapping[str, Any] | RowMapping) -> ImportRecord:
    return ImportRecord.model_validate(_fields(row))


def result_of(row: Mapping[str, Any] | RowMapping) -> ImportResult:
    return ImportResult.model_validate(_fields(row))


def _fields(row: Mapping[str, Any] | RowMapping) -> dict[str, Any]:
    fields = dict(row)
    if fields.get("poll_error"):
        # The count at the time of the write: polls that failed since then are counted in Redis.
        fields["poll_error"] = {**fields["poll_error"], "count": None}
    # Version 0.1 adopts into a migrated ledger without the origin.
    if fields["origin"] == Origin.ADOPTED or fields["image_url"] == NOT_REQUESTED["image_url"]:
        return fields | dict.fromkeys(NOT_REQUESTED) | {"origin": Origin.ADOPTED}
    return fields | {"request": upgrade_request(fields["request"], fields["request_version"])}


def read(db: Connection, import_id: str) -> ImportResult:
    """The import as it is in this transaction. Raises NotFound."""
    row = db.execute(select(imports).where(imports.c.id == import_id)).mappings().first()
    if row is None:
        raise NotFound("import", import_id)
    return result_of(row)
