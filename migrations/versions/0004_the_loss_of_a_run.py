"""The loss that a run minimises; runs of before minimised the squared error."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("training_runs", sa.Column("loss", sa.JSON(none_as_null=True), nullable=True))


def downgrade() -> None:
    op.drop_column("training_runs", "loss")
