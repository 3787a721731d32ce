"""Accuracy on the five fixed folds of MovieLens latest-small, by SGD alone and by posterior averaging.

    .venv/bin/python -m benchmarks.accuracy                  # the folds; a few minutes
    .venv/bin/python -m benchmarks.accuracy --sweeps S1 S20  # seconds per sweep and memory on synthetic ratings

For each fold, the other four are trained like a published version: fit on 95 %, settings chosen on the other 5 %, then
trained on all. All test pairs count, including items without training ratings; predictions are clipped to the scale.
"""

from __future__ import annotations

import argparse
import csv
import functools
import itertools
import re
import resource
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from app.engine.bayes.average import average_posterior
from app.engine.data.ratings import Ratings, Vocabulary
from app.engine.evaluation import graded_ndcg_at, ndcg_at, split_holdout
from app.engine.factors import FactorModel
from app.engine.fold_in.fold_in import FoldIn
from app.engine.fold_in.user import UserVector
from app.engine.hyperparameters import Hyperparameters
from app.engine.retrieval.by_relevance import relevance_model, relevance_user
from app.engine.sgd.local import LocalTrainer
from app.engine.sgd.refit import refit
from benchmarks.datasets import data_set, movielens_folder
from benchmarks.engine_folds import by_fold_in, by_trained_vectors, clipped_rmse, load_folds

N_FOLDS, TOP = 5, 10
EDGES = (0, 1, 3, 10, 30, 100, 300, 10**9)
LEVEL = 0.8


@dataclass(frozen=True, slots=True)
class Trained:
    """Both fits of one fold, and their durations."""

    sgd: FactorModel
    posterior: FactorModel
    n_sweeps: int
    seconds: float
    sgd_seconds: float


def train(ratings: Ratings, n_threads: int, item_features: np.ndarray | None = None) -> Trained:
    """As a training run does it: fits evaluated on a hold-out of 5 %, then both trained on all ratings."""
    settings, trainer = Hyperparameters(), LocalTrainer(n_threads)
    started = time.perf_counter()
    learned, holdout = split_holdout(ratings, settings.holdout_fraction, settings.seed)
    first = trainer.fit(learned, settings, holdout=holdout)
    final = refit(trainer, ratings, settings, first)
    sgd_seconds = time.perf_counter() - started
    average = functools.partial(average_posterior, seed=settings.seed, n_threads=n_threads, item_features=item_features)
    evaluated = average(first.model, learned, holdout=holdout)
    published = average(final.model, ratings, first=evaluated)
    seconds = time.perf_counter() - started
    return Trained(final.model, published.model, len(published.sweeps), seconds, sgd_seconds)


def item_features_of(folder: Path) -> np.ndarray:
    """Genres as 0 and 1, the year and its square, one row per item in the order of `load_folds`."""
    rated = [row[1] for row in csv.reader((folder / "ratings.csv").open(encoding="utf-8"))][1:]
    items = Vocabulary.of(rated)
    films = {row[0]: row for row in csv.reader((folder / "movies.csv").open(encoding="utf-8"))}
    genres = sorted({name for row in films.values() for name in row[2].split("|")})
    features = np.zeros((len(items), len(genres) + 2), np.float32)
    for row, item_id in enumerate(items.ids_of(np.arange(len(items), dtype=np.int32))):
        for name in films[item_id][2].split("|"):
            features[row, genres.index(name)] = 1.0
        year = re.search(r"\((\d{4})\)\s*$", films[item_id][1])
        features[row, -2] = (float(year[1]) if year else 1995.0) - 1995.0
    features[:, -1] = features[:, -2] ** 2
    return features


def trained_user(fold_in: FoldIn, user_row: int, known: Ratings, seen: slice) -> UserVector:
    """The trained vector of a user with these ratings, as known as the folded-in one is."""
    folded, model = fold_in.fold_in(known.item_rows[seen], known.values[seen]), fold_in.model
    return replace(folded, bias=float(model.user_bias[user_row]), factors=model.user_factors[user_row])


def coverage(model: FactorModel, known: Ratings, test: Ratings) -> list[tuple[int, int, bool, float]]:
    """Of each test rating the counts of its user and item, whether the interval holds it, and the interval's width."""
    fold_in, rows = FoldIn(model), []
    for user_row in np.unique(test.user_rows).tolist():
        seen, asked = known.of_user(user_row), test.of_user(user_row)
        user = trained_user(fold_in, user_row, known, seen)
        values, variances = fold_in.predict(user, test.item_rows[asked])
        ends = fold_in.interval(user, test.item_rows[asked], values, variances, LEVEL)
        lower, upper = (np.clip(end, 0.5, 5.0) for end in ends)
        held = (lower <= test.values[asked]) & (test.values[asked] <= upper)
        counts = model.item_counts[test.item_rows[asked]]
        widths = (upper - lower).tolist()
        rows += list(zip([user.n_ratings] * values.size, counts.tolist(), held.tolist(), widths, strict=True))
    return rows


def few_ratings(model: FactorModel, known: Ratings, test: Ratings, n_first: int) -> float:
    """RMSE by fold-in with only so many random training ratings of each user; the seed is fixed."""
    rng, fold_in, errors = np.random.default_rng(0), FoldIn(model), []
    for user_row in np.unique(test.user_rows).tolist():
        seen, asked = known.of_user(user_row), test.of_user(user_row)
        places = np.arange(seen.start, seen.stop)
        places = np.sort(rng.permutation(places)[:n_first])
        user = fold_in.fold_in(known.item_rows[places], known.values[places])
        values, _ = fold_in.predict(user, test.item_rows[asked])
        errors.append(np.clip(values, 0.5, 5.0) - test.values[asked])
    return float(np.sqrt((np.concatenate(errors) ** 2).mean()))


def rankings(models: dict[str, FactorModel], known: Ratings, test: Ratings) -> dict[str, tuple[float, float]]:
    """Mean nDCG@10 over users in two ways: of all items that a user has not rated, and of the user's test items alone.

    Of all: hits are test items rated no lower than the mean of the user's training ratings. Of the test items: gains
    are ratings.
    """
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    orders = _orders(models, known)
    for user_row in np.unique(test.user_rows).tolist():
        seen, asked = known.of_user(user_row), test.of_user(user_row)
        liked = test.item_rows[asked][test.values[asked] >= known.values[seen].mean()]
        for name, scores_for in orders.items():
            scores = np.array(scores_for(user_row), np.float64)
            of_tested = graded_ndcg_at(scores[test.item_rows[asked]], test.values[asked], TOP)
            scores[known.item_rows[seen]] = -np.inf
            best = np.argsort(-scores, kind="stable")[:TOP].astype(np.int32)
            found[name].append((ndcg_at(best, liked.astype(np.int32), TOP), of_tested))
    return {name: tuple(np.nanmean(both, axis=0)) for name, both in found.items()}


def _orders(models: dict[str, FactorModel], known: Ratings) -> dict[str, Callable[[int], np.ndarray]]:
    """The scores of all items for a user, by each ranking method."""
    sgd, posterior = models["SGD"], models["posterior"]
    fold_in, every = FoldIn(posterior), np.arange(known.n_items, dtype=np.int32)
    damped = sgd.item_counts * (sgd.item_means - sgd.mean) / (sgd.item_counts + 5.0)

    def user_of(user_row: int, model: FactorModel = posterior) -> UserVector:
        seen = known.of_user(user_row)
        fold_in = FoldIn(model)
        return trained_user(fold_in, user_row, known, seen)

    def lower(user_row: int) -> np.ndarray:
        user = user_of(user_row)
        return fold_in.interval(user, every, *fold_in.predict(user, every), LEVEL)[0]

    def relevance(model: FactorModel, ordering: FactorModel) -> Callable[[int], np.ndarray]:
        def scores(user_row: int) -> np.ndarray:
            items = known.item_rows[known.of_user(user_row)]
            user = relevance_user(model, user_of(user_row, model), items)
            return ordering.item_bias + ordering.item_factors @ user.factors

        return scores

    orders: dict[str, Callable[[int], np.ndarray]] = {}
    for name, model in models.items():
        orders[name] = functools.partial(_by_trained_vector, model)
    orders["posterior, lower ends of intervals"] = lower
    for name in ("posterior", "posterior with categories"):
        orders[f"{name}, relevance"] = relevance(models[name], relevance_model(models[name]))
    orders["popularity (number of ratings)"] = lambda _: sgd.item_counts
    orders["popularity (damped mean)"] = lambda _: damped
    orders["biases"] = lambda _: sgd.item_bias
    return orders


def _by_trained_vector(model: FactorModel, user_row: int) -> np.ndarray:
    scores: np.ndarray = model.item_bias + model.item_factors @ model.user_factors[user_row]
    return scores


def measure_folds(folds: list[int], n_threads: int) -> None:
    folder = movielens_folder()
    ratings, fold_of = load_folds(folder / "ratings.csv")
    features = item_features_of(folder)
    errors: dict[str, list[float]] = defaultdict(list)
    ndcg: dict[str, list[tuple[float, float]]] = defaultdict(list)
    covered: list[tuple[int, int, bool, float]] = []
    print("fold  seconds (SGD)   sweeps  rank   SGD trained  fold-in   posterior trained  fold-in   with categories")
    for fold in folds:
        known, test = ratings.take(fold_of != fold), ratings.take(fold_of == fold)
        fits = train(known, n_threads)
        richer = train(known, n_threads, features).posterior
        models = {"SGD": fits.sgd, "posterior": fits.posterior, "posterior with categories": richer}
        row = {}
        for name, model in models.items():
            row[f"{name}, trained"] = clipped_rmse(by_trained_vectors(model, test), test)
            row[f"{name}, fold-in"] = clipped_rmse(by_fold_in(model, known, test)[0], test)
        for n_first in (1, 3, 10):
            for name in ("SGD", "posterior"):
                row[f"{name}, {n_first} ratings each"] = few_ratings(models[name], known, test, n_first)
        unknown = fits.posterior.item_counts[test.item_rows] == 0
        for name, model in models.items():
            guess = by_trained_vectors(model, test.take(unknown))
            row[f"{name}, items never seen"] = clipped_rmse(guess, test.take(unknown))
        for name, value in row.items():
            errors[name].append(value)
        for name, both in rankings(models, known, test).items():
            ndcg[name].append(both)
        covered += coverage(fits.posterior, known, test)
        numbers = list(row.values())
        print(
            f"{fold:4}  {fits.seconds:7.2f} ({fits.sgd_seconds:.2f})  {fits.n_sweeps:6}  {fits.posterior.n_factors:4}"
            f"   {numbers[0]:11.4f}  {numbers[1]:7.4f}   {numbers[2]:17.4f}  {numbers[3]:7.4f}"
            f"   {numbers[4]:.4f} {numbers[5]:.4f}",
            flush=True,
        )
    print("\nmean RMSE over the folds")
    for name, values in errors.items():
        print(f"  {name:45} {np.mean(values):.4f}")
    print(
        f"\nmean nDCG@{TOP}: of all items not rated in training, hits liked; of each user's test items, gains ratings"
    )
    for name, pairs in ndcg.items():
        of_all, of_tested = np.mean(pairs, axis=0)
        print(f"  {name:45} {of_all:.4f}  {of_tested:.4f}")
    _print_coverage(covered)


def _print_coverage(covered: list[tuple[int, int, bool, float]]) -> None:
    users, items, held, widths = (np.array(column) for column in zip(*covered, strict=True))
    print(f"\n{LEVEL:.0%} intervals hold {held.mean():.1%} of all test ratings; mean width {widths.mean():.2f}")
    for name, counts in (("user", users), ("item", items)):
        for low, high in itertools.pairwise(EDGES):
            inside = (counts >= low) & (counts < high)
            if inside.any():
                until = f"to {high - 1}" if high < EDGES[-1] else "and more"
                print(f"  {name}s with {low} {until} ratings: {held[inside].mean():.1%} of {inside.sum()}")


def measure_sweeps(name: str, n_threads: int) -> None:
    """Seconds per sweep on synthetic ratings, from an SGD fit, and the peak memory of the process."""
    data = data_set(name)
    known = Ratings.of(
        data.train.users, data.train.items, data.train.values, n_users=data.n_users, n_items=data.n_items
    )
    learned, holdout = split_holdout(known, 0.02, 0)
    del known, data
    settings = Hyperparameters(n_factors=32, n_epochs=6)
    sgd = LocalTrainer(n_threads).fit(learned, settings, holdout=holdout)
    times: list[float] = []
    started = time.perf_counter()
    fit = average_posterior(
        *(sgd.model, learned),
        seed=0,
        n_threads=n_threads,
        holdout=holdout,
        on_sweep=lambda report: times.append(len(learned) / report.ratings_per_second),
    )
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{name}: {len(learned):,} ratings, {n_threads} threads: features {fit.features_seconds:.2f} s, "
        f"{np.median(times[:20]):.3f} s per sweep, {np.median(times[20:] or times):.3f} s with what is kept, "
        f"{len(times)} sweeps, {seconds:.1f} s in all; peak {peak:.2f} GiB; hold-out RMSE {sgd.best.holdout_rmse:.4f} "
        f"by SGD, {fit.sweeps[-1].holdout_rmse:.4f} by the posterior; std {holdout.values.std(dtype=np.float64):.3f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sweeps", nargs="+", choices=("S1", "S20"), help="measure sweeps on these instead")
    parser.add_argument("--folds", type=int, nargs="+", default=list(range(N_FOLDS)), help="only these")
    asked = parser.parse_args()
    if asked.sweeps:
        for name in asked.sweeps:
            measure_sweeps(name, asked.threads)
    else:
        measure_folds(asked.folds, asked.threads)


if __name__ == "__main__":
    main()
