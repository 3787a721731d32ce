from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from app.engine.bayes.average import by_user_and_item
from app.engine.bayes.compress import PosteriorMeans, compress
from app.engine.data.features import standardised, who_rated_what
from tests.engine.worlds import planted


@pytest.mark.parametrize("rank", [1, 2])
def test_the_model_predicts_what_the_means_do_with_no_more_columns_than_they_need(rank):
    rng, ratings = np.random.default_rng(0), planted().ratings
    left, right = (rng.normal(size=(n, rank)).astype(np.float32) for n in (ratings.n_users, ratings.n_items))
    users, items, _ = by_user_and_item(ratings)
    with ThreadPoolExecutor(1) as pool:
        user_features, _, projection = who_rated_what(pool, users, items, 4, seed=0)
        means = PosteriorMeans(
            mean=3.0,
            left=left,
            right=right,
            noise_variance=0.2,
            item_variance=np.full(ratings.n_items, 0.1),
            ridge=20.0,
            user_features=standardised(user_features, users.counts > 0),
            projection=projection,
            user_parts=users.parts,
            item_parts=items.parts,
        )
        model = compress(pool, means, ratings, None, None, max_rank=16)
    assert model.n_factors == rank
    predicted = model.predict(ratings.user_rows, ratings.item_rows)
    exact = 3.0 + np.einsum("nk,nk->n", left[ratings.user_rows], right[ratings.item_rows])
    assert predicted == pytest.approx(exact, abs=2e-4)
    assert model.posterior.item_noise == pytest.approx(np.full(ratings.n_items, 1.5))
