"""Explanations of a list, as JSON."""

from __future__ import annotations

import numpy as np

from app.engine.arrays import Rows
from app.engine.fold_in.explanation import explain, largest_shares
from app.engine.fold_in.user import UserVector
from app.recommendations.context import Moment, RatedItems
from app.recommendations.response_json import Json, numbers_json

_REASON = '%s,"rating":%s,"share":%s}'
_EXPLANATION = '{"score":%s,"prior":%s,"reasons":[%s],"others":%s,"learned":%s}'


def explanations(
    moment: Moment, user: UserVector, rated: RatedItems, rows: Rows, n_reasons: int, decimals: int
) -> list[Json]:
    """`Explanation` of each row. Ratings of items outside the model have no row to be named by: others hold them."""
    found = explain(moment.served.fold_in, user, rows, rated.rows, rated.values)
    places = largest_shares(found.shares, n_reasons, rated.rows >= 0)
    shares = found.shares[np.arange(rows.size)[:, None], places]
    # Adding 0.0 makes no number -0.0.
    flat, n_each = places.reshape(-1), places.shape[1]
    told_shares = shares.reshape(-1).round(decimals) + 0.0
    columns = numbers_json(rated.values[flat].tolist()), numbers_json(told_shares.tolist())
    told = list(map(_REASON.__mod__, zip(moment.texts_of(rated.rows[flat]), *columns, strict=True)))
    reasons = [",".join(told[first : first + n_each]) for first in range(0, n_each * rows.size, n_each or 1)]
    others = found.shares.sum(axis=1) - shares.sum(axis=1)
    parts = np.stack([found.scores, found.prior, others, found.learned]).round(decimals) + 0.0
    scores, prior, rest, learned = map(numbers_json, parts.tolist())
    return list(map(_EXPLANATION.__mod__, zip(scores, prior, reasons or [""] * rows.size, rest, learned, strict=True)))
