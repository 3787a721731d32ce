"""The first schema: every table, and on PostgreSQL the functions that write ratings."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# What storing a rating does: 0, 1 or 2 for unchanged, updated, created. Both functions below inline it.
_RATING_CHANGE = """
CREATE FUNCTION rating_change(old_value float8, old_time bigint, new_value float8, new_time bigint)
RETURNS int LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN old_value IS NULL THEN 2
                WHEN old_value <> new_value OR coalesce(old_time <> new_time, false) THEN 1
                ELSE 0 END
$$"""

# Writes ratings of different pairs in one round trip. `before` is the newest revision before the write; each rating
# that changes something takes the next one. With `wants_each`, `each_written` holds two big-endian bigints per rating:
# its stored time, and 0, 1 or 2 for unchanged, updated, created.
# VOLATILE: each statement sees what is committed when it begins, thus all that came before the lock on the counter.
# Generic plans look up one rating after the other; plans for a known number of ratings read whole tables.
# Stored rows are addressed by ctid: nobody else changes ratings while the lock is held.
_WRITE_MANY_RATINGS = """
CREATE FUNCTION write_many_ratings(
    user_ids text[], item_ids text[], new_values float8[], new_times bigint[], write_time bigint,
    wants_each boolean, OUT before bigint, OUT n_changed bigint, OUT n_new bigint, OUT each_written bytea
) LANGUAGE plpgsql VOLATILE SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    user_keys int[];
    item_keys int[];
    n_added bigint;
    items_before bigint;
BEGIN
    SELECT value INTO before FROM counters WHERE name = 'ratings' FOR UPDATE;
    write_time := coalesce(write_time, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint);

    LOOP
        SELECT array_agg(user_key ORDER BY ordinal), array_agg(item_key ORDER BY ordinal) INTO user_keys, item_keys
        FROM unnest(user_ids, item_ids) WITH ORDINALITY AS input (user_id, item_id, ordinal)
        LEFT JOIN users ON users.user_id = input.user_id LEFT JOIN items ON items.item_id = input.item_id;
        EXIT WHEN array_position(user_keys, NULL) IS NULL AND array_position(item_keys, NULL) IS NULL;

        INSERT INTO users (user_id)
        SELECT id FROM unnest(user_ids, user_keys) WITH ORDINALITY AS input (id, key, ordinal)
        WHERE key IS NULL GROUP BY id ORDER BY min(ordinal);
        GET DIAGNOSTICS n_added = ROW_COUNT;
        UPDATE counters SET value = value + n_added WHERE name = 'n_users';

        SELECT value INTO items_before FROM counters WHERE name = 'items' FOR UPDATE;
        INSERT INTO items (item_id, title_folded, categories, attributes, updated_at, revision)
        SELECT id, '', '[]', '{}', write_time, items_before + row_number() OVER (ORDER BY min(ordinal))
        FROM unnest(item_ids, item_keys) WITH ORDINALITY AS input (id, key, ordinal)
        WHERE key IS NULL AND NOT EXISTS (SELECT FROM items WHERE item_id = id)  -- created before this lock was taken
        GROUP BY id;
        GET DIAGNOSTICS n_added = ROW_COUNT;
        UPDATE counters SET value = value + n_added WHERE name IN ('items', 'n_items');
    END LOOP;

    WITH numbered AS MATERIALIZED (
        SELECT ordinal, input.user_key, input.item_key, new_value, stored.ctid AS row_id, change,
               CASE WHEN change > 0 THEN coalesce(new_time, write_time) ELSE stored.rated_at END AS rated_at,
               before + sum((change > 0)::int) OVER (ORDER BY ordinal) AS revision
        FROM unnest(user_keys, item_keys, new_values, new_times) WITH ORDINALITY
             AS input (user_key, item_key, new_value, new_time, ordinal)
        LEFT JOIN ratings AS stored ON stored.user_key = input.user_key AND stored.item_key = input.item_key
        CROSS JOIN LATERAL (
            SELECT rating_change(stored.value, stored.rated_at, new_value, new_time) AS change
        ) AS comparison
    ), inserted AS (
        INSERT INTO ratings (user_key, item_key, value, rated_at, revision)
        SELECT user_key, item_key, new_value, rated_at, revision FROM numbered WHERE change = 2
        ORDER BY user_key, item_key
    ), updated AS (
        UPDATE ratings SET value = new_value, rated_at = numbered.rated_at, revision = numbered.revision
        FROM numbered WHERE ratings.ctid = row_id AND change = 1
    ), rated_again AS (
        DELETE FROM deleted_ratings AS deleted USING numbered
        WHERE change = 2 AND deleted.user_key = numbered.user_key AND deleted.item_key = numbered.item_key
    )
    SELECT string_agg(int8send(rated_at) || int8send(change), '' ORDER BY ordinal)
               FILTER (WHERE wants_each),
           count(*) FILTER (WHERE change > 0), count(*) FILTER (WHERE change = 2)
    INTO each_written, n_changed, n_new FROM numbered;

    UPDATE counters SET value = value + CASE name WHEN 'ratings' THEN n_changed ELSE n_new END
    WHERE name IN ('ratings', 'n_ratings') AND n_changed > 0;
END $$"""

# Writes one rating. If the user or the item is new, write_many_ratings creates it; the rating is then new as well.
# `change` is 0, 1 or 2: unchanged, updated, created; `rated` is the time as stored.
_WRITE_RATING = """
CREATE FUNCTION write_rating(
    new_user_id text, new_item_id text, new_value float8, new_time bigint, write_time bigint,
    OUT before bigint, OUT rated bigint, OUT change int
) LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    known_user_key int;
    known_item_key int;
    old_value float8;
    old_time bigint;
    row_id tid;
BEGIN
    SELECT value INTO before FROM counters WHERE name = 'ratings' FOR UPDATE;
    write_time := coalesce(write_time, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint);
    rated := coalesce(new_time, write_time);
    SELECT user_key INTO known_user_key FROM users WHERE user_id = new_user_id;
    SELECT item_key INTO known_item_key FROM items WHERE item_id = new_item_id;

    IF known_user_key IS NULL OR known_item_key IS NULL THEN
        PERFORM write_many_ratings(
            ARRAY[new_user_id], ARRAY[new_item_id], ARRAY[new_value], ARRAY[new_time], write_time, false
        );
        change := 2;
        RETURN;
    END IF;

    SELECT value, rated_at, ctid INTO old_value, old_time, row_id
    FROM ratings WHERE user_key = known_user_key AND item_key = known_item_key;

    change := rating_change(old_value, old_time, new_value, new_time);
    IF change = 2 THEN
        INSERT INTO ratings (user_key, item_key, value, rated_at, revision)
        VALUES (known_user_key, known_item_key, new_value, rated, before + 1);
        DELETE FROM deleted_ratings WHERE user_key = known_user_key AND item_key = known_item_key;
        UPDATE counters SET value = value + 1 WHERE name IN ('ratings', 'n_ratings');
    ELSIF change = 1 THEN
        UPDATE ratings SET value = new_value, rated_at = rated, revision = before + 1 WHERE ctid = row_id;
        UPDATE counters SET value = value + 1 WHERE name = 'ratings';
    ELSE
        rated := old_time;
    END IF;
END $$"""

_FUNCTIONS = {"rating_change": _RATING_CHANGE, "write_many_ratings": _WRITE_MANY_RATINGS, "write_rating": _WRITE_RATING}


def _create_partial_unique_index(name: str, table: str, column: str, condition: str) -> None:
    where = sa.text(condition)
    op.create_index(name, table, [column], unique=True, sqlite_where=where, postgresql_where=where)


def upgrade() -> None:
    _create_ratings_and_items()
    _create_training()
    _create_models()
    _create_access()
    if op.get_bind().dialect.name == "postgresql":
        for function in _FUNCTIONS.values():
            op.execute(function)


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
