"""A cursor names the row after which the next page begins; numbered rows come newest first."""

import pytest
from sqlalchemy import select

from app.api_keys import keys
from app.api_keys.models import ApiKey
from app.db.engine import Database
from app.db.paging import cursor_after, key_before, newest
from app.db.tables import utc_now
from app.errors import BadInput


@pytest.mark.parametrize("key", [0, 1, 12345, 2**31 - 1])
def test_a_cursor_gives_back_its_key(key: int) -> None:
    assert key_before(cursor_after(key)) == key


def test_without_a_cursor_the_first_page_begins() -> None:
    assert key_before(None) == 0


@pytest.mark.parametrize("cursor", ["", "x", "k5", "azU=", cursor_after(5) + "A", cursor_after(2**31), "é"])
def test_text_that_is_no_cursor_is_refused(cursor: str) -> None:
    with pytest.raises(BadInput, match="is not a valid cursor"):
        key_before(cursor)


def test_numbered_rows_come_newest_first_in_pages(database: Database) -> None:
    with database.write() as connection:
        ids = [keys.create(connection, name, ["read"], utc_now()).row.id for name in ("a", "b", "c")]
        statement = select(ApiKey.__table__)
        first = newest(connection, statement, ApiKey.id, 2, None)
        second = newest(connection, statement, ApiKey.id, 2, first[-1].id)
    assert [row.id for row in first + second] == ids[::-1]
