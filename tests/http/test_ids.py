"""Which ids of users and items are valid, and why others are not."""

import pytest

from app.db.tables import ID_LENGTH
from app.http.ids import complaint_about_id


@pytest.mark.parametrize("text", ["ann", "42", "a.b@c.org", "0b5e9e2c-7d4f", "ü漢🎬", " x y", "...", "x" * ID_LENGTH])
def test_usual_ids_are_valid(text: str) -> None:
    assert complaint_about_id(text) is None


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
