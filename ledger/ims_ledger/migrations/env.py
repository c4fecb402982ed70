"""Alembic's entry point: runs the migrations on the connection of ims_ledger.migrate."""

from alembic import context

from ims_ledger.tables import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    # SQLite cannot alter a table in place.
    render_as_batch=True,
)
context.run_migrations()
