"""Who waits for what and in which order, what was asked to be canceled, when it was last tried."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_COLUMNS = (
    sa.Column("priority", sa.Integer(), nullable=False, server_default="0"),
    sa.Column("waits_for", sa.String(length=16), nullable=True),
    sa.Column("cancel", sa.String(length=8), nullable=True),
    sa.Column("attempted_at", sa.DateTime(timezone=True), nullable=True),
)


def upgrade() -> None:
    for column in _COLUMNS:
        op.add_column("imports", column)


def downgrade() -> None:
    for column in reversed(_COLUMNS):
        op.drop_column("imports", column.name)
