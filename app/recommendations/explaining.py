"""Explanations of a list, as JSON."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from app.engine.arrays import Rows
from app.engine.explanation import explain, largest_shares
from app.engine.fold_in import UserSide
from app.recommendations.encoding import Json, items_json
from app.recommendations.moment import Moment, RatedItems

_EXPLANATION = '{"score":%s,"prior":%s,"reasons":%s,"others":%s,"learned":%s}'


def explanations(
    moment: Moment, user: UserSide, rated: RatedItems, rows: Rows, n_reasons: int, decimals: int
) -> list[Json]:
    """`Explanation` of each row. Ratings of items outside the model have no row to be named by: others hold them."""
    found = explain(moment.served.fold_in, user, rows, rated.rows, rated.values)
    named = np.flatnonzero(rated.rows >= 0)
    places = named[largest_shares(found.shares[:, named], n_reasons)]
    shares = np.take_along_axis(found.shares, places, axis=1)
    told_rows = rated.rows[places]
    distinct, which = np.unique(told_rows, return_inverse=True)
    texts = moment.texts_of(distinct)
    numbers = np.array([found.scores, found.prior, found.shares.sum(axis=1) - shares.sum(axis=1), found.learned])
    scores, priors, others, learned = numbers.round(decimals).tolist()
    named_by: npt.NDArray[np.intp] = which.reshape(places.shape)
    told = zip(named_by.tolist(), rated.values[places].tolist(), shares.round(decimals).tolist(), strict=True)
    reasons = [
        items_json([texts[place] for place in of_item], rating=ratings, share=of_share)
        for of_item, ratings, of_share in told
    ]
    return list(map(_EXPLANATION.__mod__, zip(scores, priors, reasons, others, learned, strict=True)))
