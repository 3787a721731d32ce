"""Opaque cursors: where the next page begins."""

import base64
import binascii

from app.errors import BadInput


def cursor_after(key: int) -> str:
    """The cursor of the page that follows the row with this key."""
    return base64.urlsafe_b64encode(b"k%d" % key).decode().rstrip("=")


def key_before(cursor: str | None) -> int:
    """The key that the page begins after; raises BadInput for text that `cursor_after` cannot return."""
    if cursor is None:
        return 0
    try:
        plain = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        key = int(plain.removeprefix(b"k"))
    except (binascii.Error, ValueError):
        key = -1
    if not 0 <= key < 2**31 or cursor_after(key) != cursor:
        raise BadInput.at("cursor", "is not a valid cursor")
    return key
