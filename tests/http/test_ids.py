"""Ids of users and items: which are valid, and which are so at a glance."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.db.tables import ID_LENGTH
from app.http.ids import PLAIN_ID, complaint_about_id


@given(st.text(max_size=5))
def test_a_plain_id_is_valid(text: str) -> None:
    if PLAIN_ID.fullmatch(text):
        assert complaint_about_id(text) is None


def test_every_character_of_plain_ids_is_printable() -> None:
    plain = [character for character in map(chr, range(0x110000)) if PLAIN_ID.fullmatch(f"a{character}")]
    assert len(plain) > 100_000
    assert all(map(str.isprintable, plain))


@pytest.mark.parametrize("text", ["ann", "42", "a.b@c.org", "0b5e9e2c-7d4f", "ü漢", "x y", "...", "x" * ID_LENGTH])
def test_usual_ids_are_plain(text: str) -> None:
    assert PLAIN_ID.fullmatch(text)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "1 to 128 characters"),
        ("x" * (ID_LENGTH + 1), "1 to 128 characters"),
        ("a/b", "'/'"),
        ("a\nb", "printable"),
        ("\u2028", "printable"),
        ("\ud800", "printable"),
        (".", "URL paths"),
        ("..", "URL paths"),
    ],
)
def test_an_invalid_id_is_refused_with_the_reason(text: str, complaint: str) -> None:
    assert complaint in (complaint_about_id(text) or "")
    assert not PLAIN_ID.fullmatch(text)


def test_an_unusual_id_is_valid() -> None:
    assert complaint_about_id("🎬") is None
    assert not PLAIN_ID.fullmatch("🎬")
