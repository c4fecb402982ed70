"""Where an import comes from, and the version of its stored request."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "imports",
        sa.Column("origin", sa.String(length=16), nullable=False, server_default="request"),
    )
    op.add_column(
        "imports", sa.Column("request_version", sa.Integer(), nullable=False, server_default="1")
    )
    op.execute("UPDATE imports SET origin = 'adopted' WHERE image_url = 'unknown:adopted'")


def downgrade() -> None:
    op.drop_column("imports", "request_version")
    op.drop_column("imports", "origin")
