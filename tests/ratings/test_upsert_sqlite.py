"""What only the SQLite writer does; tests/ratings/test_store.py tests what all writers do."""

from sqlalchemy import event

from app.db.engine import open_database
from app.ratings import upsert_sqlite
from app.ratings.models import NewRating
from app.settings import Settings


def test_one_rating_of_a_known_pair_needs_no_statement_of_sqlalchemy(sqlite_settings: Settings) -> None:
    """Building statements would take longer than executing them; only new users and items are worth it."""
    database = open_database(sqlite_settings)
    statements: list[str] = []
    event.listen(database.engine, "before_cursor_execute", lambda *arguments: statements.append(arguments[2]))
    for value, is_new in ((3.0, True), (4.0, False), (4.0, False)):
        with database.write() as connection:
            statements.clear()
            upsert_sqlite.upsert_each(connection, [NewRating("ann", "dune", value)])
            assert any("INSERT INTO users" in statement for statement in statements) == is_new
            assert is_new or not statements
    database.dispose()
