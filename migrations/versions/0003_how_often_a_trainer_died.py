"""How often a trainer died while working on a run."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("training_runs", sa.Column("n_deaths", sa.Integer(), server_default="0", nullable=False))


def downgrade() -> None:
    op.drop_column("training_runs", "n_deaths")
