"""The tables of the ledger: imports, and one event for each thing that happened to them."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Text,
    TypeDecorator,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

# Constraint names that PostgreSQL and SQLite agree on, so that migrations can name them.
NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


class UtcTime(TypeDecorator[datetime]):
    """Aware UTC in, aware UTC out, also where the database knows no time zones (SQLite)."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, _dialect: Dialect) -> datetime | None:
        return value if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, _dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Base(DeclarativeBase):
    metadata = MetaData(naming_convention=NAMING)


class ImportRow(Base):
    """One import; the columns that are facts are those of ims_config.records.ImportRecord."""

    __tablename__ = "imports"
    __table_args__ = (
        Index(None, "project", "state"),
        Index(None, "created_at", "id"),
        Index(None, "reported_at", "id"),
    )

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    key: Mapped[str | None] = mapped_column(String(255), unique=True)
    state: Mapped[str] = mapped_column(String(16))
    reason: Mapped[str | None] = mapped_column(Text)
    overdue: Mapped[bool] = mapped_column(default=False)
    cloud: Mapped[str | None] = mapped_column(String(64), index=True)
    project: Mapped[str | None] = mapped_column(String(64))
    kind: Mapped[str] = mapped_column(String(16))
    name: Mapped[str] = mapped_column(String(128), index=True)
    image_url: Mapped[str] = mapped_column(Text)
    job_id: Mapped[str | None] = mapped_column(String(64))
    image_id: Mapped[str | None] = mapped_column(String(64))
    error: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    image: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    attempts: Mapped[int] = mapped_column(default=0)
    polls: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[datetime] = mapped_column(UtcTime)
    updated_at: Mapped[datetime] = mapped_column(UtcTime)
    submitted_at: Mapped[datetime | None] = mapped_column(UtcTime)
    finished_at: Mapped[datetime | None] = mapped_column(UtcTime)
    # When Celery's result backend had the final result.
    reported_at: Mapped[datetime | None] = mapped_column(UtcTime)
    # When the request of the attempt that counts was about to leave.
    attempted_at: Mapped[datetime | None] = mapped_column(UtcTime)
    # ims_config.records.WaitsFor; a line is made of those that wait for a slot.
    waits_for: Mapped[str | None] = mapped_column(String(16))
    priority: Mapped[int] = mapped_column(default=0, server_default="0")
    # What a person asked to be done with the image of a canceled import: `delete` or `leave`.
    cancel: Mapped[str | None] = mapped_column(String(8))
    requested_by: Mapped[str | None] = mapped_column(String(255))
    request: Mapped[dict[str, Any]] = mapped_column(JSON)
    # The Celery signature of the poll with all that hangs on the import's end.
    canvas: Mapped[str | None] = mapped_column(Text)
    version: Mapped[int] = mapped_column(default=0)


class EventRow(Base):
    """One thing that happened to an import."""

    __tablename__ = "events"
    __table_args__ = (Index(None, "import_id", "id"),)

    # SQLite counts up only its own INTEGER.
    id: Mapped[int] = mapped_column(
        BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True
    )
    import_id: Mapped[str] = mapped_column(ForeignKey("imports.id", ondelete="CASCADE"))
    at: Mapped[datetime] = mapped_column(UtcTime)
    kind: Mapped[str] = mapped_column(String(32))
    from_state: Mapped[str | None] = mapped_column(String(16))
    to_state: Mapped[str | None] = mapped_column(String(16))
    reason: Mapped[str | None] = mapped_column(Text)
    facts: Mapped[dict[str, Any]] = mapped_column(JSON)


class ApiKeyRow(Base):
    """One API key; see ims_ledger.api_keys."""

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    name: Mapped[str] = mapped_column(String(64))
    hash: Mapped[str] = mapped_column(String(64))
    scopes: Mapped[list[str]] = mapped_column(JSON)
    clouds: Mapped[list[str] | None] = mapped_column(JSON(none_as_null=True))
    created_at: Mapped[datetime] = mapped_column(UtcTime)
    expires_at: Mapped[datetime | None] = mapped_column(UtcTime)
    revoked_at: Mapped[datetime | None] = mapped_column(UtcTime)


class WebhookRow(Base):
    """Somebody who is told of all imports that match; see ims_ledger.webhook_endpoints."""

    __tablename__ = "webhooks"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    url: Mapped[str] = mapped_column(Text)
    events: Mapped[list[str] | None] = mapped_column(JSON(none_as_null=True))
    clouds: Mapped[list[str] | None] = mapped_column(JSON(none_as_null=True))
    created_at: Mapped[datetime] = mapped_column(UtcTime)


class WebhookSecretRow(Base):
    """Which generation of an endpoint's derived secrets counts; without a row, the first."""

    __tablename__ = "webhook_secrets"

    endpoint: Mapped[str] = mapped_column(String(2048), primary_key=True)
    generation: Mapped[int]
    rotated_at: Mapped[datetime] = mapped_column(UtcTime)


class DeliveryRow(Base):
    """One message to one receiver; see ims_ledger.outbox."""

    __tablename__ = "deliveries"
    __table_args__ = (Index(None, "import_id", "number"), Index(None, "state", "next_at"))

    # The order in which a receiver learns of one import.
    number: Mapped[int] = mapped_column(
        BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True
    )
    id: Mapped[str] = mapped_column(String(64), unique=True)
    import_id: Mapped[str] = mapped_column(ForeignKey("imports.id", ondelete="CASCADE"))
    event: Mapped[str] = mapped_column(String(32))
    url: Mapped[str] = mapped_column(Text)
    endpoint: Mapped[str] = mapped_column(Text)
    # The very bytes that are signed, the same at each attempt.
    body: Mapped[str] = mapped_column(Text)
    state: Mapped[str] = mapped_column(String(16))
    # Counts claims: a message of an older one ends at once.
    generation: Mapped[int] = mapped_column(default=0)
    attempts: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[datetime] = mapped_column(UtcTime)
    next_at: Mapped[datetime | None] = mapped_column(UtcTime)
    claimed_until: Mapped[datetime | None] = mapped_column(UtcTime)
    ended_at: Mapped[datetime | None] = mapped_column(UtcTime)
    http_status: Mapped[int | None]
    error: Mapped[str | None] = mapped_column(Text)


class ImportedObjectRow(Base):
    """An object of a watched bucket, as it was imported last; see ims_ledger.imported_objects."""

    __tablename__ = "watched"

    rule: Mapped[str] = mapped_column(String(64), primary_key=True)
    image_url: Mapped[str] = mapped_column(String(1200), primary_key=True)
    etag: Mapped[str] = mapped_column(String(128))
    # May have been forgotten meanwhile: what was imported once must not be imported again for that.
    import_id: Mapped[str] = mapped_column(String(64))
    at: Mapped[datetime] = mapped_column(UtcTime)
