"""The tables of the ledger."""

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
    """Aware UTC datetimes, also in databases without time zones (SQLite)."""

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


class LedgerRow(Base):
    """The one row that identifies this ledger."""

    __tablename__ = "ledger"

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    created_at: Mapped[datetime] = mapped_column(UtcTime)


class ImportRow(Base):
    """One import; most columns are fields of ims_config.records.ImportRecord."""

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
    # Written when it changes; Redis counts the failures between.
    poll_error: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    attempts: Mapped[int] = mapped_column(default=0)
    polls: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[datetime] = mapped_column(UtcTime)
    updated_at: Mapped[datetime] = mapped_column(UtcTime)
    submitted_at: Mapped[datetime | None] = mapped_column(UtcTime)
    finished_at: Mapped[datetime | None] = mapped_column(UtcTime)
    # When the final result was stored in Celery's result backend.
    reported_at: Mapped[datetime | None] = mapped_column(UtcTime)
    # When the intent of the current attempt was committed, before its POST.
    attempted_at: Mapped[datetime | None] = mapped_column(UtcTime)
    # A value of ims_config.records.WaitsFor.
    waits_for: Mapped[str | None] = mapped_column(String(16))
    priority: Mapped[int] = mapped_column(default=0, server_default="0")
    # What happens to the image of a canceled import: `delete` or `leave`.
    cancel: Mapped[str | None] = mapped_column(String(8))
    requested_by: Mapped[str | None] = mapped_column(String(255))
    request: Mapped[dict[str, Any]] = mapped_column(JSON)
    # A value of ims_config.records.Origin; an adopted import has rows.NOT_REQUESTED.
    origin: Mapped[str] = mapped_column(String(16), default="request", server_default="request")
    # The shape of `request`; see ims_config.import_request.upgrade_request.
    request_version: Mapped[int] = mapped_column(default=1, server_default="1")
    # The Celery signature of the poll with its callbacks, chain, group and chord.
    canvas: Mapped[str | None] = mapped_column(Text)
    version: Mapped[int] = mapped_column(default=0)


class EventRow(Base):
    """One event of an import."""

    __tablename__ = "events"
    __table_args__ = (Index(None, "import_id", "id"),)

    # SQLite auto-increments only its own INTEGER.
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
    """A URL that receives events of all matching imports; see ims_ledger.webhook_endpoints."""

    __tablename__ = "webhooks"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    url: Mapped[str] = mapped_column(Text)
    events: Mapped[list[str] | None] = mapped_column(JSON(none_as_null=True))
    clouds: Mapped[list[str] | None] = mapped_column(JSON(none_as_null=True))
    created_at: Mapped[datetime] = mapped_column(UtcTime)


class WebhookSecretRow(Base):
    """The current generation of an endpoint's derived secret; without a row, the first."""

    __tablename__ = "webhook_secrets"

    endpoint: Mapped[str] = mapped_column(String(2048), primary_key=True)
    generation: Mapped[int]
    rotated_at: Mapped[datetime] = mapped_column(UtcTime)


class DeliveryRow(Base):
    """One webhook message to one receiver; see ims_ledger.outbox."""

    __tablename__ = "deliveries"
    __table_args__ = (Index(None, "import_id", "number"), Index(None, "state", "next_at"))

    # Receivers get the messages of one import in this order.
    number: Mapped[int] = mapped_column(
        BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True
    )
    id: Mapped[str] = mapped_column(String(64), unique=True)
    import_id: Mapped[str] = mapped_column(ForeignKey("imports.id", ondelete="CASCADE"))
    event: Mapped[str] = mapped_column(String(32))
    url: Mapped[str] = mapped_column(Text)
    endpoint: Mapped[str] = mapped_column(Text)
    # The signed body, identical at each attempt.
    body: Mapped[str] = mapped_column(Text)
    state: Mapped[str] = mapped_column(String(16))
    # Incremented by each claim; messages of older claims end immediately.
    generation: Mapped[int] = mapped_column(default=0)
    attempts: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[datetime] = mapped_column(UtcTime)
    next_at: Mapped[datetime | None] = mapped_column(UtcTime)
    claimed_until: Mapped[datetime | None] = mapped_column(UtcTime)
    ended_at: Mapped[datetime | None] = mapped_column(UtcTime)
    http_status: Mapped[int | None]
    error: Mapped[str | None] = mapped_column(Text)


class ImportedObjectRow(Base):
    """An object that a bucket rule imported, with its last ETag."""

    __tablename__ = "watched"

    rule: Mapped[str] = mapped_column(String(64), primary_key=True)
    image_url: Mapped[str] = mapped_column(String(1200), primary_key=True)
    etag: Mapped[str] = mapped_column(String(128))
    # No foreign key: pruning the import must not make the object new again.
    import_id: Mapped[str] = mapped_column(String(64))
    at: Mapped[datetime] = mapped_column(UtcTime)
