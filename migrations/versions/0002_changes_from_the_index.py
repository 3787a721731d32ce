"""What has changed since a revision is read from the index alone."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.drop_index("ix_ratings_revision", "ratings")
    op.create_index("ix_ratings_revision", "ratings", ["revision", "value"], unique=False)


def downgrade() -> None:
    op.drop_index("ix_ratings_revision", "ratings")
    op.create_index("ix_ratings_revision", "ratings", ["revision"], unique=False)
