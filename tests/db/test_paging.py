"""A cursor names the row after which the next page begins."""

import pytest

from app.db.paging import cursor_after, key_before
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
