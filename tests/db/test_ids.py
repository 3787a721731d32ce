"""Ids and keys of users and items are translated both ways."""

from app.db.engine import Database
from app.db.ids import ids_of_keys, keys_of_ids, read_ids
from app.ratings import store
from app.ratings.models import NewRating


def test_every_key_is_read_with_its_id(database: Database) -> None:
    with database.write() as connection:
        store.save_many(connection, [NewRating("bob", "heat", 1.0), NewRating("ann", "dune", 2.0)])
    with database.read() as connection:
        for kind, ids in (("user", ["bob", "ann"]), ("item", ["heat", "dune"])):
            table = read_ids(connection, kind)
            assert table.ids == ids
            assert keys_of_ids(connection, kind, [*ids, "nobody"]) == dict(zip(ids, table.keys.tolist(), strict=True))
            assert ids_of_keys(connection, kind, [*table.keys.tolist(), 99]) == dict(
                zip(table.keys.tolist(), ids, strict=True)
            )
