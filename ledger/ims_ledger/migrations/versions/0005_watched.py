"""Which objects of watched buckets have been imported."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "watched",
        sa.Column("rule", sa.String(length=64), nullable=False),
        sa.Column("image_url", sa.String(length=1200), nullable=False),
        sa.Column("etag", sa.String(length=128), nullable=False),
        sa.Column("import_id", sa.String(length=64), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("rule", "image_url", name="pk_watched"),
    )


def downgrade() -> None:
    op.drop_table("watched")
