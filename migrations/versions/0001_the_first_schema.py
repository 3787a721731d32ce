"""The first schema."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "counters",
        sa.Column("name", sa.String(length=16), nullable=False),
        sa.Column("value", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_counters")),
    )
    op.create_table(
        "deleted_items",
        sa.Column("item_key", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("item_key", name=op.f("pk_deleted_items")),
    )
    op.create_index("ix_deleted_items_revision", "deleted_items", ["revision"], unique=False)

    op.create_table(
        "deleted_ratings",
        sa.Column("user_key", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("item_key", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("user_key", "item_key", name=op.f("pk_deleted_ratings")),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_deleted_ratings_revision", "deleted_ratings", ["revision"], unique=False)

    op.create_table(
        "items",
        sa.Column("item_key", sa.Integer(), nullable=False),
        sa.Column("item_id", sa.String(length=128), nullable=False),
        sa.Column("title", sa.String(length=1000), nullable=True),
        sa.Column("title_folded", sa.Text(), nullable=False),
        sa.Column("categories", sa.JSON(), nullable=False),
        sa.Column("attributes", sa.JSON(), nullable=False),
        sa.Column("hidden", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("item_key", name=op.f("pk_items")),
        sa.UniqueConstraint("item_id", name=op.f("uq_items_item_id")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_items_revision", "items", ["revision"], unique=False)

    op.create_table(
        "model_versions",
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("run_id", sa.Integer(), nullable=True),
        sa.Column("folder", sa.String(length=200), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("trained_through", sa.BigInteger(), nullable=False),
        sa.Column("manifest", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("version", name=op.f("pk_model_versions")),
        sa.UniqueConstraint("folder", name=op.f("uq_model_versions_folder")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "ratings",
        sa.Column("user_key", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("item_key", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("value", sa.Float(precision=53), nullable=False),
        sa.Column("rated_at", sa.BigInteger(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("user_key", "item_key", name=op.f("pk_ratings")),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_ratings_revision", "ratings", ["revision"], unique=False)

    op.create_table(
        "training_runs",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("requested_by", sa.String(length=16), nullable=False),
        sa.Column("hyperparameters", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=True),
        sa.Column("finished_at", sa.BigInteger(), nullable=True),
        sa.Column("is_cancel_requested", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("worker", sa.String(length=200), nullable=True),
        sa.Column("lease_expires_at", sa.BigInteger(), nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("n_ratings", sa.BigInteger(), nullable=True),
        sa.Column("trained_through", sa.BigInteger(), nullable=True),
        sa.Column("metrics", sa.JSON(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_training_runs")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_training_runs_status", "training_runs", ["status"], unique=False)
    op.create_index(
        "uq_training_runs_one_running",
        "training_runs",
        ["status"],
        unique=True,
        sqlite_where=sa.text("status = 'running'"),
        postgresql_where=sa.text("status = 'running'"),
    )
    op.create_index(
        "uq_training_runs_one_queued_by_policy",
        "training_runs",
        ["requested_by"],
        unique=True,
        sqlite_where=sa.text("status = 'queued' AND requested_by = 'policy'"),
        postgresql_where=sa.text("status = 'queued' AND requested_by = 'policy'"),
    )

    op.create_table(
        "users",
        sa.Column("user_key", sa.Integer(), nullable=False),
        sa.Column("user_id", sa.String(length=128), nullable=False),
        sa.PrimaryKeyConstraint("user_key", name=op.f("pk_users")),
        sa.UniqueConstraint("user_id", name=op.f("uq_users_user_id")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "active_model",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("activated_at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("ck_active_model_single")),
        sa.ForeignKeyConstraint(
            ["version"], ["model_versions.version"], name=op.f("fk_active_model_version_model_versions")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_active_model")),
    )
    op.create_table(
        "training_epochs",
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("phase", sa.String(length=8), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("n_epochs", sa.Integer(), nullable=False),
        sa.Column("learning_rate", sa.Float(precision=53), nullable=False),
        sa.Column("train_rmse", sa.Float(precision=53), nullable=False),
        sa.Column("holdout_rmse", sa.Float(precision=53), nullable=True),
        sa.Column("ratings_per_second", sa.Float(precision=53), nullable=False),
        sa.Column("finished_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["run_id"],
            ["training_runs.id"],
            name=op.f("fk_training_epochs_run_id_training_runs"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("run_id", "phase", "epoch", name=op.f("pk_training_epochs")),
    )
    op.bulk_insert(
        sa.table("counters", sa.column("name", sa.String), sa.column("value", sa.BigInteger)),
        [{"name": name, "value": 0} for name in ("ratings", "items", "n_ratings", "n_users", "n_items")],
    )


def downgrade() -> None:
    for table in (
        "training_epochs",
        "active_model",
        "users",
        "training_runs",
        "ratings",
        "model_versions",
        "items",
        "deleted_ratings",
        "deleted_items",
        "counters",
    ):
        op.drop_table(table)
