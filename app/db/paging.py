"""Pages: opaque cursors, which say where the next page begins, and numbered rows from the newest on."""

import base64
import binascii
from typing import Any

from sqlalchemy import Connection, Row
from sqlalchemy.orm import InstrumentedAttribute

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


def newest(
    connection: Connection, statement: Any, number: InstrumentedAttribute[int], limit: int, before: int | None
) -> list[Row[Any]]:
    """The rows of `statement` in descending order of `number`, at most `limit`, all below `before`."""
    if before is not None:
        statement = statement.where(number < before)
    return list(connection.execute(statement.order_by(number.desc()).limit(limit)))
