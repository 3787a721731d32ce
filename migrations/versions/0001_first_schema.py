"""The first schema: every table, and on PostgreSQL the functions that write ratings."""

from pathlib import Path

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_FUNCTIONS = ("rating_change", "write_many_ratings", "write_rating")
"""On PostgreSQL; defined in 0001_write_ratings.sql."""


def _create_partial_unique_index(name: str, table: str, column: str, condition: str) -> None:
    where = sa.text(condition)
    op.create_index(name, table, [column], unique=True, sqlite_where=where, postgresql_where=where)


def upgrade() -> None:
    _create_ratings_and_items()
    _create_training()
    _create_models()
    _create_access()
    if op.get_bind().dialect.name == "postgresql":
        functions = Path(__file__).with_name("0001_write_ratings.sql").read_text()
        for function in functions.strip().split("$$;\n"):  # drivers execute one statement at a time
            op.execute(function.removesuffix("$$;") + "$$")


def _create_ratings_and_items() -> None:
    counters = op.create_table(
        "counters",
        sa.Column("name", sa.String(16), nullable=False),
        sa.Column("value", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_counters")),
    )
    op.bulk_insert(
        counters, [{"name": name, "value": 0} for name in ("ratings", "items", "n_ratings", "n_users", "n_items")]
    )
    op.create_table(
        "users",
        sa.Column("user_key", sa.Integer(), nullable=False),
        sa.Column("user_id", sa.String(128), nullable=False),
        sa.PrimaryKeyConstraint("user_key", name=op.f("pk_users")),
        sa.UniqueConstraint("user_id", name=op.f("uq_users_user_id")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "items",
        sa.Column("item_key", sa.Integer(), nullable=False),
        sa.Column("item_id", sa.String(128), nullable=False),
        sa.Column("title", sa.String(1000), nullable=True),
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
    op.create_index("ix_items_revision", "items", ["revision"])
    op.create_table(
        "deleted_items",
        sa.Column("item_key", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("item_key", name=op.f("pk_deleted_items")),
    )
    op.create_index("ix_deleted_items_revision", "deleted_items", ["revision"])
    op.create_table(
        "ratings",
        sa.Column("user_key", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("item_key", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("value", sa.Float(53), nullable=False),
        sa.Column("rated_at", sa.BigInteger(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("user_key", "item_key", name=op.f("pk_ratings")),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_ratings_revision", "ratings", ["revision", "value"])
    op.create_table(
        "deleted_ratings",
        sa.Column("user_key", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("item_key", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("user_key", "item_key", name=op.f("pk_deleted_ratings")),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_deleted_ratings_revision", "deleted_ratings", ["revision"])


def _create_training() -> None:
    op.create_table(
        "training_runs",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(8), server_default="train", nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("requested_by", sa.String(16), nullable=False),
        sa.Column("hyperparameters", sa.JSON(), nullable=False),
        sa.Column("loss", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=True),
        sa.Column("finished_at", sa.BigInteger(), nullable=True),
        sa.Column("is_cancel_requested", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("worker", sa.String(200), nullable=True),
        sa.Column("lease_expires_at", sa.BigInteger(), nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("n_crashes", sa.Integer(), server_default="0", nullable=False),
        sa.Column("n_ratings", sa.BigInteger(), nullable=True),
        sa.Column("trained_through", sa.BigInteger(), nullable=True),
        sa.Column("metrics", sa.JSON(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_training_runs")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_training_runs_status", "training_runs", ["status"])
    _create_partial_unique_index("uq_training_runs_one_running", "training_runs", "status", "status = 'running'")
    _create_partial_unique_index(
        "uq_training_runs_one_queued_by_policy",
        "training_runs",
        "requested_by",
        "status = 'queued' AND requested_by = 'policy'",
    )
    op.create_table(
        "training_epochs",
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("phase", sa.String(8), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("n_epochs", sa.Integer(), nullable=False),
        sa.Column("learning_rate", sa.Float(53), nullable=False),
        sa.Column("train_rmse", sa.Float(53), nullable=False),
        sa.Column("holdout_rmse", sa.Float(53), nullable=True),
        sa.Column("ratings_per_second", sa.Float(53), nullable=False),
        sa.Column("finished_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["run_id"], ["training_runs.id"], name=op.f("fk_training_epochs_run_id_training_runs"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("run_id", "phase", "epoch", name=op.f("pk_training_epochs")),
    )
    op.create_table(
        "searches",
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("space", sa.JSON(), nullable=False),
        sa.Column("strategy", sa.String(8), nullable=False),
        sa.Column("n_trials", sa.Integer(), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("n_folds", sa.Integer(), nullable=False),
        sa.Column("pruning", sa.String(8), nullable=False),
        sa.Column("publish", sa.Boolean(), nullable=False),
        sa.Column("defaults", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(
            ["run_id"], ["training_runs.id"], name=op.f("fk_searches_run_id_training_runs"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("run_id", name=op.f("pk_searches")),
    )
    op.create_table(
        "search_trials",
        sa.Column("search_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("parameters", sa.JSON(), nullable=False),
        sa.Column("status", sa.String(8), nullable=False),
        sa.Column("value", sa.Float(53), nullable=True),
        sa.Column("seconds", sa.Float(53), nullable=False),
        sa.Column("curve", sa.JSON(), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("trained_through", sa.BigInteger(), nullable=False),
        sa.Column("finished_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["search_id"], ["searches.run_id"], name=op.f("fk_search_trials_search_id_searches"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("search_id", "number", name=op.f("pk_search_trials")),
    )


def _create_models() -> None:
    op.create_table(
        "model_versions",
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("run_id", sa.Integer(), nullable=True),
        sa.Column("folder", sa.String(200), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("trained_through", sa.BigInteger(), nullable=False),
        sa.Column("manifest", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("version", name=op.f("pk_model_versions")),
        sa.UniqueConstraint("folder", name=op.f("uq_model_versions_folder")),
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


def _create_access() -> None:
    op.create_table(
        "api_keys",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("prefix", sa.String(16), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("scopes", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=True),
        sa.Column("revoked_at", sa.BigInteger(), nullable=True),
        sa.Column("last_used_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_keys")),
        sa.UniqueConstraint("prefix", name=op.f("uq_api_keys_prefix")),
        sqlite_autoincrement=True,
    )
    _create_partial_unique_index("uq_api_keys_name", "api_keys", "name", "revoked_at IS NULL")
    op.create_table(
        "idempotent_responses",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("request_digest", sa.String(64), nullable=False),
        sa.Column("body", sa.Text(), nullable=True),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_idempotent_responses")),
    )
    op.create_index("ix_idempotent_responses_expires_at", "idempotent_responses", ["expires_at"])


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        for function in reversed(_FUNCTIONS):
            op.execute(f"DROP FUNCTION {function}")
    for table in (
        "idempotent_responses",
        "api_keys",
        "active_model",
        "model_versions",
        "search_trials",
        "searches",
        "training_epochs",
        "training_runs",
        "deleted_ratings",
        "ratings",
        "deleted_items",
        "items",
        "users",
        "counters",
    ):
        op.drop_table(table)
