"""Predicted ratings of pairs of users and items."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from app.ratings import user_ratings
from app.recommendations.dispatch import RequestContext
from app.recommendations.lists import ANSWERED_FROM
from app.recommendations.schemas import ListRequest, PredictionOut, PredictionsOut


def predict_pairs(context: RequestContext, pairs: Sequence[tuple[str, str]], level: float) -> PredictionsOut:
    """Predicted rating, interval and source of each (user_id, item_id), in the order of the pairs."""
    model = context.serving_model
    context.check_work(ListRequest(), len(pairs))
    users = user_ratings.read_many(context.connection, {user_id for user_id, _ in pairs})
    rows = model.item_ids.rows_of([item_id for _, item_id in pairs])
    context.check_work(ListRequest(), sum(stored.values.size for stored in users.values()))
    positions_of: defaultdict[str, list[int]] = defaultdict(list)
    for position, (user_id, _) in enumerate(pairs):
        positions_of[user_id].append(position)
    predictions: dict[int, PredictionOut] = {}
    for user_id, positions in positions_of.items():
        user = model.user_of(users.get(user_id, user_ratings.NO_RATINGS))
        ANSWERED_FROM[user.source].inc()
        predicted = model.predict(user.vector, rows[positions], level)
        for position, value, lower, upper in zip(positions, *predicted, strict=True):
            item_id = pairs[position][1]
            predictions[position] = PredictionOut(
                user_id=user_id, item_id=item_id, source=user.source, value=value, lower=lower, upper=upper
            )
    return PredictionsOut(
        model_version=model.version,
        trained_through=model.trained_through,
        level=level,
        predictions=[predictions[position] for position in range(len(pairs))],
    )
