"""What only the PostgreSQL writer does; tests/ratings/test_store.py tests what all writers do."""

import pytest

from app.ratings.upsert_postgres import _lines


def test_an_id_that_would_be_read_as_two_is_refused() -> None:
    """PostgreSQL gets ids as lines; no endpoint accepts an id with a line end, and neither does the writer."""
    assert _lines(["ann", "bob"]) == "ann\nbob"
    with pytest.raises(ValueError, match="line end"):
        _lines(["ann\nbob"])
