"""What Alembic runs: the migrations, on the connection that ims_ledger.migrate opened."""

from alembic import context

from ims_ledger.tables import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    # SQLite cannot alter a table in place.
    render_as_batch=True,
)
context.run_migrations()
