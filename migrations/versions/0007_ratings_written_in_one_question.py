"""A function of PostgreSQL that writes ratings, so that a writer asks the server once."""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

# VOLATILE: each statement in it sees what is committed when it begins, thus all that came before the lock.
# Generic plans look up one rating after the other; plans for a given number of them read whole tables.
# Stored rows are found again by ctid: nobody else changes ratings while the lock is held.
_WRITE_RATINGS = """
CREATE FUNCTION write_ratings(
    user_ids text[], item_ids text[], new_values float8[], new_times bigint[], write_time bigint,
    OUT before bigint, OUT written bytea
) LANGUAGE plpgsql VOLATILE SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    user_keys int[];
    item_keys int[];
    n_added bigint;
    n_changed bigint;
    items_before bigint;
BEGIN
    SELECT value INTO before FROM counters WHERE name = 'ratings' FOR UPDATE;
    write_time := coalesce(write_time, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint);

    LOOP
        SELECT array_agg(user_key ORDER BY place), array_agg(item_key ORDER BY place) INTO user_keys, item_keys
        FROM unnest(user_ids, item_ids) WITH ORDINALITY AS given (user_id, item_id, place)
        LEFT JOIN users ON users.user_id = given.user_id LEFT JOIN items ON items.item_id = given.item_id;
        EXIT WHEN array_position(user_keys, NULL) IS NULL AND array_position(item_keys, NULL) IS NULL;

        INSERT INTO users (user_id)
        SELECT id FROM unnest(user_ids, user_keys) WITH ORDINALITY AS given (id, key, place)
        WHERE key IS NULL GROUP BY id ORDER BY min(place);
        GET DIAGNOSTICS n_added = ROW_COUNT;
        UPDATE counters SET value = value + n_added WHERE name = 'n_users';

        SELECT value INTO items_before FROM counters WHERE name = 'items' FOR UPDATE;
        INSERT INTO items (item_id, title_folded, categories, attributes, updated_at, revision)
        SELECT id, '', '[]', '{}', write_time, items_before + row_number() OVER (ORDER BY min(place))
        FROM unnest(item_ids, item_keys) WITH ORDINALITY AS given (id, key, place)
        WHERE key IS NULL AND NOT EXISTS (SELECT FROM items WHERE item_id = id)  -- made by others before the lock
        GROUP BY id;
        GET DIAGNOSTICS n_added = ROW_COUNT;
        UPDATE counters SET value = value + n_added WHERE name IN ('items', 'n_items');
    END LOOP;

    WITH numbered AS MATERIALIZED (
        SELECT place, given.user_key, given.item_key, new_value, stored.ctid AS row_id, is_new, is_changed,
               CASE WHEN is_changed THEN coalesce(new_time, write_time) ELSE stored.rated_at END AS rated_at,
               before + sum(is_changed::int) OVER (ORDER BY place) AS revision
        FROM unnest(user_keys, item_keys, new_values, new_times) WITH ORDINALITY
             AS given (user_key, item_key, new_value, new_time, place)
        LEFT JOIN ratings AS stored ON stored.user_key = given.user_key AND stored.item_key = given.item_key
        CROSS JOIN LATERAL (SELECT stored.value IS NULL AS is_new) AS comparison
        CROSS JOIN LATERAL (
            SELECT is_new OR stored.value <> new_value OR coalesce(stored.rated_at <> new_time, false) AS is_changed
        ) AS change
    ), inserted AS (
        INSERT INTO ratings (user_key, item_key, value, rated_at, revision)
        SELECT user_key, item_key, new_value, rated_at, revision FROM numbered WHERE is_new
        ORDER BY user_key, item_key
    ), updated AS (
        UPDATE ratings SET value = new_value, rated_at = numbered.rated_at, revision = numbered.revision
        FROM numbered WHERE ratings.ctid = row_id AND is_changed
    ), rated_again AS (
        DELETE FROM deleted_ratings AS deleted USING numbered
        WHERE is_new AND deleted.user_key = numbered.user_key AND deleted.item_key = numbered.item_key
    )
    SELECT string_agg(int8send(rated_at) || int8send(is_changed::int + is_new::int), '' ORDER BY place),
           count(*) FILTER (WHERE is_changed), count(*) FILTER (WHERE is_new)
    INTO written, n_changed, n_added FROM numbered;

    UPDATE counters SET value = value + CASE name WHEN 'ratings' THEN n_changed ELSE n_added END
    WHERE name IN ('ratings', 'n_ratings') AND n_changed > 0;
END $$"""


def upgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute(_WRITE_RATINGS)


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION write_ratings")
