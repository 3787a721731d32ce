from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

import migrations
from app.db.engine import Database
from app.db.tables import Base
from migrations import VERSION_TABLE


def test_migrations_make_exactly_the_tables_that_the_code_declares(database: Database) -> None:
    with database.read() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        assert compare_metadata(context, Base.metadata) == []


def test_upgrading_an_upgraded_database_changes_nothing(database: Database, settings) -> None:
    migrations.upgrade(database, settings)
    assert migrations.is_usable(database)


def test_the_clock_of_the_database_is_utc(database: Database) -> None:
    with database.read() as connection:
        offset = database.now(connection).utcoffset()
    assert offset is not None
    assert offset.total_seconds() == 0
