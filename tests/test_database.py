from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

import migrations
from app.database import Base, Database, advance, revision
from migrations import VERSION_TABLE


def test_migrations_make_exactly_the_tables_that_the_code_declares(database: Database) -> None:
    with database.read() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        assert compare_metadata(context, Base.metadata) == []


def test_upgrading_an_upgraded_database_changes_nothing(database: Database, settings) -> None:
    migrations.upgrade(database, settings)
    assert migrations.is_current(database)


def test_a_write_that_raises_gives_its_revisions_back(database: Database) -> None:
    class Stop(Exception):
        pass

    try:
        with database.write() as connection:
            advance(connection, "ratings", 10)
            raise Stop
    except Stop:
        pass
    with database.read() as connection:
        assert revision(connection, "ratings") == 0


def test_the_clock_of_the_database_is_utc(database: Database) -> None:
    with database.read() as connection:
        offset = database.now(connection).utcoffset()
    assert offset is not None
    assert offset.total_seconds() == 0
