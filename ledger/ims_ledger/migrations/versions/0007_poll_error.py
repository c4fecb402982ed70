"""Why the polls of an import fail."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("imports", sa.Column("poll_error", sa.JSON(), nullable=True))


def downgrade() -> None:
    op.drop_column("imports", "poll_error")
