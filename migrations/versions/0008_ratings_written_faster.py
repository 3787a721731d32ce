"""Functions of PostgreSQL that write one rating, and many, in less time than `write_ratings`, now nobody's."""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

# As write_ratings (migration 0007), which explains itself; what became of each rating is only told to who wants it.
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
    SELECT string_agg(int8send(rated_at) || int8send(is_changed::int + is_new::int), '' ORDER BY place)
               FILTER (WHERE wants_each),
           count(*) FILTER (WHERE is_changed), count(*) FILTER (WHERE is_new)
    INTO each_written, n_changed, n_new FROM numbered;

    UPDATE counters SET value = value + CASE name WHEN 'ratings' THEN n_changed ELSE n_new END
    WHERE name IN ('ratings', 'n_ratings') AND n_changed > 0;
END $$"""

# Users and items that are new are made by write_many_ratings: their rating is new as well.
_WRITE_RATING = """
CREATE FUNCTION write_rating(
    given_user text, given_item text, new_value float8, new_time bigint, write_time bigint,
    OUT before bigint, OUT rated bigint, OUT change int
) LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    keyed_user int;
    keyed_item int;
    old_value float8;
    old_time bigint;
    row_id tid;
BEGIN
    SELECT value INTO before FROM counters WHERE name = 'ratings' FOR UPDATE;
    write_time := coalesce(write_time, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint);
    rated := coalesce(new_time, write_time);
    SELECT user_key INTO keyed_user FROM users WHERE user_id = given_user;
    SELECT item_key INTO keyed_item FROM items WHERE item_id = given_item;

    IF keyed_user IS NULL OR keyed_item IS NULL THEN
        PERFORM write_many_ratings(
            ARRAY[given_user], ARRAY[given_item], ARRAY[new_value], ARRAY[new_time], write_time, false
        );
        change := 2;
        RETURN;
    END IF;

    SELECT value, rated_at, ctid INTO old_value, old_time, row_id
    FROM ratings WHERE user_key = keyed_user AND item_key = keyed_item;

    IF old_value IS NULL THEN
        INSERT INTO ratings (user_key, item_key, value, rated_at, revision)
        VALUES (keyed_user, keyed_item, new_value, rated, before + 1);
        DELETE FROM deleted_ratings WHERE user_key = keyed_user AND item_key = keyed_item;
        UPDATE counters SET value = value + 1 WHERE name IN ('ratings', 'n_ratings');
        change := 2;
    ELSIF old_value <> new_value OR coalesce(old_time <> new_time, false) THEN
        UPDATE ratings SET value = new_value, rated_at = rated, revision = before + 1 WHERE ctid = row_id;
        UPDATE counters SET value = value + 1 WHERE name = 'ratings';
        change := 1;
    ELSE
        rated := old_time;
        change := 0;
    END IF;
END $$"""


def upgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute(_WRITE_MANY_RATINGS)
        op.execute(_WRITE_RATING)


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION write_rating")
        op.execute("DROP FUNCTION write_many_ratings")
