"""A service with data of every kind, and what is in its database."""

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import select

import migrations
from app.backup.tables import tables
from app.db.engine import Database, open_database
from app.items import store as items
from app.ratings import store
from app.ratings.bulk_read import hold_snapshot
from app.ratings.erasure import erase_item, erase_user
from app.ratings.export import ratings_digest
from app.settings import Settings
from tests.ratings.writing import save
from tests.training.world import fill, train


def migrated(settings: Settings) -> Settings:
    with opened(settings) as database:
        migrations.upgrade(database, settings)
    return settings


@contextmanager
def opened(settings: Settings) -> Iterator[Database]:
    database = open_database(settings)
    yield database
    database.dispose()


def digest_of(database: Database) -> str:
    with database.read() as connection:
        hold_snapshot(connection)
        return ratings_digest(connection)


def contents(database: Database) -> dict[str, list[tuple[object, ...]]]:
    """Every row of every table, as the code sees it."""
    with database.read() as connection:
        return {
            table.name: [tuple(row) for row in connection.execute(select(table).order_by(*table.primary_key))]
            for table in tables()
        }


def a_little_of_everything(database: Database, settings: Settings) -> None:
    """Ratings, erased ones, described items, a trained version, and a key that was given out and is free again."""
    fill(database)
    with database.write() as connection:
        fields = {
            "title": 'Ünder "quotes"\t\\',
            "categories": ["a", "b"],
            "attributes": {"n": [1, None]},
            "hidden": True,
        }
        items.put(connection, "item-1", fields)
        save(connection, "last-user", "last-item", 3.0, None, database.now(connection))
    with database.write() as connection:
        erase_user(connection, "last-user")
        erase_item(connection, "last-item")
        store.remove(connection, "user-1", store_item_of(connection, "user-1"))
    train(database, settings)


def store_item_of(connection: object, user_id: str) -> str:
    [first, *_], _ = store.page_of_user(connection, user_id, 1, None)  # type: ignore[arg-type]
    return str(first.item_id)


def with_other_manifest(archive: Path, old: bytes, new: bytes) -> Path:
    """A copy of the archive that says something else of what it holds."""
    changed = archive.with_name("changed.zip")
    with zipfile.ZipFile(archive) as whole, zipfile.ZipFile(changed, "w") as other:
        for name in whole.namelist():
            body = whole.read(name)
            if name == "manifest.json":
                assert old in body
                body = body.replace(old, new)
            other.writestr(name, body)
    return changed
