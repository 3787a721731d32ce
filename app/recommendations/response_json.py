"""JSON answers built from arrays: the text that the schemas would give, without an object for each item."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from pydantic_core import to_json

from app.engine.arrays import Rows
from app.engine.fold_in.explanation import explain, largest_shares
from app.recommendations.context import RequestContext
from app.recommendations.serving_model import DECIMALS, ModelUser

Json = str
"""Text that is already JSON."""

_REASON = '%s,"rating":%s,"share":%s}'
_EXPLANATION = '{"score":%s,"prior":%s,"reasons":[%s],"other_ratings":%s,"residual":%s}'


def list_json(fields: Mapping[str, object], items: Sequence[Json], **columns: Sequence[Json]) -> bytes:
    """An answer: its fields, then `items`, each an open object (see `CatalogView.item_jsons`) plus its columns."""
    item = "".join(f',"{name}":%s' for name in columns)
    texts = map(f"%s{item}}}".__mod__, zip(items, *columns.values(), strict=True))
    return b'%b,"items":[%b]}' % (to_json(fields)[:-1], ",".join(texts).encode())


def numbers_json(numbers: list[float] | list[int]) -> list[Json]:
    """Each number, which must be finite, as JSON: in half the time that Python takes to write them one by one."""
    return to_json(numbers)[1:-1].decode("ascii").split(",") if numbers else []


def explanations_json(context: RequestContext, user: ModelUser, rows: Rows, n_reasons: int) -> list[Json]:
    """`Explanation` of each row. Ratings of items outside the model have no row: `other_ratings` includes them."""
    explanation = explain(context.serving_model.fold_in, user.vector, rows, user.rated_rows, user.values)
    positions = largest_shares(explanation.shares, n_reasons, user.rated_rows >= 0)
    shares = explanation.shares[np.arange(rows.size)[:, None], positions]
    # Adding 0.0 turns -0.0 into 0.0.
    flat, n_each = positions.reshape(-1), positions.shape[1]
    shares_json = numbers_json((shares.reshape(-1).round(DECIMALS) + 0.0).tolist())
    items = context.view.item_jsons(user.rated_rows[flat], context.connection_unless_away)
    each = list(map(_REASON.__mod__, zip(items, numbers_json(user.values[flat].tolist()), shares_json, strict=True)))
    reasons = [",".join(each[first : first + n_each]) for first in range(0, n_each * rows.size, n_each or 1)]
    other_ratings = explanation.shares.sum(axis=1) - shares.sum(axis=1)
    parts = np.stack([explanation.scores, explanation.prior, other_ratings, explanation.learned]).round(DECIMALS) + 0.0
    scores, prior, others, residual = map(numbers_json, parts.tolist())
    texts = zip(scores, prior, reasons or [""] * rows.size, others, residual, strict=True)
    return list(map(_EXPLANATION.__mod__, texts))
