-- The functions that write ratings on PostgreSQL; app/ratings/upsert_postgres.py calls them.

-- What storing a rating does: 0, 1 or 2 for unchanged, updated, created. Both functions below inline it.
CREATE FUNCTION rating_change(old_value float8, old_time bigint, new_value float8, new_time bigint)
RETURNS int LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN old_value IS NULL THEN 2
                WHEN old_value <> new_value OR coalesce(old_time <> new_time, false) THEN 1
                ELSE 0 END
$$;

-- Writes ratings of different pairs in one round trip. `before` is the newest revision before the write; each rating
-- that changes something takes the next one. With `wants_each`, `each_written` holds two big-endian bigints per rating:
-- its stored time, and 0, 1 or 2 for unchanged, updated, created.
-- VOLATILE: each statement sees what is committed when it begins, thus all that came before the lock on the counter.
-- Generic plans look up one rating after the other; plans for a known number of ratings read whole tables.
-- Stored rows are addressed by ctid: nobody else changes ratings while the lock is held.
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
END $$;

-- Writes one rating. If the user or the item is new, write_many_ratings creates it; the rating is then new as well.
-- `change` is 0, 1 or 2: unchanged, updated, created; `rated` is the time as stored.
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
END $$;
