"""Translation between the ids of applications and the integer keys of the tables `users` and `items`."""

import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from sqlalchemy import JSON, Connection, Select, bindparam, func, select

from app.db.connections import driver, is_sqlite

Kind = Literal["user", "item"]


@dataclass(frozen=True, slots=True)
class Ids:
    """Every key of a table with its id, in the order of the keys."""

    keys: npt.NDArray[np.int64]
    ids: list[str]


def read_ids(connection: Connection, kind: Kind) -> Ids:
    """All users or items, rated or not."""
    with driver(connection) as raw:
        rows = raw.execute(f"SELECT {kind}_key, {kind}_id FROM {kind}s ORDER BY {kind}_key").fetchall()  # noqa: S608
    return Ids(np.fromiter((row[0] for row in rows), np.int64, len(rows)), [row[1] for row in rows])


def keys_of_ids(connection: Connection, kind: Kind, ids: Collection[str]) -> dict[str, int]:
    """The key of each id that exists. Imports look up many thousands at once."""
    return _look_up(connection, kind, "id", "key", ids)


def ids_of_keys(connection: Connection, kind: Kind, keys: Collection[int]) -> dict[int, str]:
    """The id of each key that exists."""
    return _look_up(connection, kind, "key", "id", keys)


def _look_up(connection: Connection, kind: Kind, column: str, result: str, values: Collection[Any]) -> dict[Any, Any]:
    """One parameter for any number of values, and no SQLAlchemy, which would take longer than the database."""
    condition = "IN (SELECT value FROM json_each(?))"
    if not is_sqlite(connection):
        cast = "text" if column == "id" else "int"
        condition = f"= ANY (ARRAY (SELECT json_array_elements_text(%s::json)::{cast}))"
    query = f"SELECT {kind}_{column}, {kind}_{result} FROM {kind}s WHERE {kind}_{column} {condition}"  # noqa: S608
    with driver(connection) as raw:
        return dict(raw.execute(query, (json.dumps(list(values)),)).fetchall())


def id_column(connection: Connection, ids: Collection[str]) -> Select[tuple[str]]:
    """The ids as a query of one column: one parameter for any number of ids."""
    if is_sqlite(connection):
        encoded = json.dumps(list(ids), ensure_ascii=False)
        return select(func.json_each(encoded).table_valued("value", name="id_list").c.value)
    return select(func.json_array_elements_text(bindparam(None, list(ids), JSON)).column_valued("id_list"))
