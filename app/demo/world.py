"""A synthetic data set: invented films and users, and ratings from a known factor model.

    value = 3.2 + generosity_u + quality_i + preferences_u . traits_i + noise, rounded to half stars in 0.5..5

`traits` are the genres of a film, its era and two hidden moods; `preferences` are a user's weights on them. Which
films a user rates also depends on these preferences and on popularity (Zipf), so the pattern of who rated what
carries information too.
"""

import csv
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from app.demo.titles import GENRES, WORDS, sequel_of, titles

_Floats = npt.NDArray[np.float64]
_Integers = npt.NDArray[np.int64]

# By genre: share of the catalogue, genres that often come with it, and how dark and how odd its films are.
_CATALOGUE: dict[str, tuple[float, tuple[str, ...], float, float]] = {
    "Drama": (0.15, ("Romance", "War", "Crime"), 0.3, 0.2),
    "Comedy": (0.12, ("Romance", "Family", "Crime"), -0.8, 0.1),
    "Thriller": (0.09, ("Crime", "Action", "Horror"), 0.8, -0.1),
    "Sci-Fi": (0.10, ("Action", "Thriller", "Adventure"), 0.2, 0.4),
    "Romance": (0.08, ("Comedy", "Drama"), -0.6, -0.2),
    "Horror": (0.08, ("Thriller", "Fantasy"), 1.0, 0.4),
    "Adventure": (0.06, ("Action", "Family", "Fantasy"), -0.3, -0.4),
    "Fantasy": (0.07, ("Adventure", "Family"), -0.1, 0.3),
    "Family": (0.06, ("Comedy", "Fantasy"), -0.9, -0.2),
    "Crime": (0.07, ("Thriller", "Drama"), 0.7, 0.0),
    "Documentary": (0.04, ("War",), 0.0, 0.7),
    "War": (0.03, ("Drama", "Action"), 0.6, -0.2),
    "Western": (0.02, ("Action", "Drama"), 0.2, -0.1),
    "Action": (0.03, ("Thriller", "Adventure"), 0.1, -0.6),
}

_SHARES = np.array([share for share, *_ in _CATALOGUE.values()])
_SHARES /= _SHARES.sum()

_FIRST_RATED_AT = int(np.datetime64("2013-03-01", "s").astype(np.int64))
_LAST_RATED_AT = int(np.datetime64("2025-06-30", "s").astype(np.int64))
_YEAR = 365.25 * 86400
_DAY = 86400


@dataclass(frozen=True)
class Film:
    """One row of movies.csv; `item_id` is made from the title, so that it can be typed."""

    item_id: str
    title: str
    year: int
    categories: tuple[str, ...]


@dataclass(frozen=True)
class Ratings:
    """Parallel columns, by user and then time: `user_ids[user_rows[n]]` rated `items[item_rows[n]]`."""

    user_ids: tuple[str, ...]
    user_rows: _Integers
    item_rows: _Integers
    values: _Floats
    timestamps: _Integers  # seconds since 1970


@dataclass(frozen=True)
class World:
    items: tuple[Film, ...]
    ratings: Ratings


def sample_world(seed: int = 7, *, n_users: int = 800, n_items: int = 600, n_ratings: int = 60_000) -> World:
    """The same world for the same arguments, byte for byte. Needs `n_ratings` well below `n_users * n_items`."""
    generator = np.random.default_rng(seed)
    items = _films(n_items, generator)
    traits, quality = _traits(items, generator), generator.normal(0, 0.35, n_items)
    affinity = _preferences(n_users, generator) @ traits.T + quality
    user_rows, item_rows = _choose_films(affinity, n_ratings, generator)
    generosity = generator.normal(0, 0.4, n_users)
    exact = 3.2 + generosity[user_rows] + affinity[user_rows, item_rows]
    exact += generator.normal(0, 0.75, len(exact))
    values = np.clip(np.round(exact * 2) / 2, 0.5, 5.0)
    timestamps = _timestamps(user_rows, np.array([film.year for film in items])[item_rows], generator)
    order = np.lexsort((item_rows, timestamps, user_rows))
    columns = (user_rows[order], item_rows[order], values[order], timestamps[order])
    return World(items, Ratings(_user_ids(n_users, generator), *columns))


def write_ratings_csv(world: World, path: Path) -> None:
    """`userId,movieId,rating,timestamp`, as MovieLens writes it."""
    ratings = world.ratings
    user_ids = (ratings.user_ids[row] for row in ratings.user_rows.tolist())
    item_ids = (world.items[row].item_id for row in ratings.item_rows.tolist())
    rows = zip(user_ids, item_ids, ratings.values.tolist(), ratings.timestamps.tolist(), strict=True)
    _write_csv(path, ("userId", "movieId", "rating", "timestamp"), rows)


def write_items_csv(world: World, path: Path) -> None:
    """`movieId,title,genres`, as MovieLens writes it: the year stands in the title, `|` separates genres."""
    rows = ((film.item_id, f"{film.title} ({film.year})", "|".join(film.categories)) for film in world.items)
    _write_csv(path, ("movieId", "title", "genres"), rows)


def _write_csv(path: Path, header: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows((header, *rows))


def _films(n_items: int, generator: np.random.Generator) -> tuple[Film, ...]:
    """The catalogue; about one film in fifteen is a sequel, made two to five years later."""
    n_sequels = n_items // 15
    genres = generator.choice(GENRES, n_items - n_sequels, p=_SHARES).tolist()
    films = []
    for title, genre in zip(titles(genres, generator), genres, strict=True):
        # more films from recent years: the square root of a uniform number leans to 1
        year = 1968 + int(56 * np.sqrt(generator.random()))
        films.append(Film(_slug(title), title, year, _categories(genre, generator)))
    originals = [film for film in films if film.year < 2018 and film.categories[0] not in ("Documentary", "Drama")]
    for row in generator.choice(len(originals), n_sequels, replace=False).tolist():
        first = originals[row]
        title = sequel_of(first.title, first.categories[0], generator)
        films.append(Film(_slug(title), title, first.year + int(generator.integers(2, 6)), first.categories))
    return tuple(films[row] for row in generator.permutation(n_items).tolist())


def _categories(genre: str, generator: np.random.Generator) -> tuple[str, ...]:
    """The genre and up to two that go with it."""
    partners = _CATALOGUE[genre][1]
    n_partners = min(int(generator.choice(3, p=(0.4, 0.45, 0.15))), len(partners))
    return (genre, *generator.permutation(partners)[:n_partners].tolist())


def _traits(items: tuple[Film, ...], generator: np.random.Generator) -> _Floats:
    """[n_items, genres + 3]: genres (unit length, the first weighs double), era -1 (1968) to 1 (2024), two moods."""
    traits = np.zeros((len(items), len(GENRES) + 3))
    for row, film in enumerate(items):
        for position, genre in enumerate(film.categories):
            traits[row, GENRES.index(genre)] = 1.0 if position == 0 else 0.5
        traits[row, : len(GENRES)] /= np.linalg.norm(traits[row, : len(GENRES)])
        _, _, darkness, oddness = _CATALOGUE[film.categories[0]]
        traits[row, -3] = (film.year - 1996) / 28
        traits[row, -2:] = generator.normal((darkness, oddness), 0.5)
    return traits


def _preferences(n_users: int, generator: np.random.Generator) -> _Floats:
    """[n_users, genres + 3]: every user likes one to three genres and dislikes one or two."""
    preferences = generator.normal(0, 0.2, (n_users, len(GENRES) + 3))
    for user_row in range(n_users):
        n_liked, n_disliked = generator.integers((1, 1), (4, 3))
        chosen = generator.choice(len(GENRES), n_liked + n_disliked, replace=False, p=_SHARES)
        preferences[user_row, chosen[:n_liked]] += generator.uniform(0.7, 1.4, n_liked)
        preferences[user_row, chosen[n_liked:]] -= generator.uniform(0.7, 1.4, n_disliked)
    preferences[:, -3:] = generator.normal(0, (0.4, 0.35, 0.3), (n_users, 3))
    return preferences


def _choose_films(affinity: _Floats, n_ratings: int, generator: np.random.Generator) -> tuple[_Integers, _Integers]:
    """Who watched what: each user draws films without replacement, with weights Zipf popularity * exp(affinity)."""
    n_users, n_items = affinity.shape
    counts = _activity(n_users, n_items, n_ratings, generator)
    popularity = -0.8 * np.log(generator.permutation(n_items) + 3.0)
    keys = popularity + 0.9 * affinity + generator.gumbel(size=affinity.shape)  # the largest keys are such a draw
    ranked = np.argsort(-keys, axis=1)
    chosen = np.arange(n_items) < counts[:, None]
    return np.repeat(np.arange(n_users), counts), ranked[chosen]


def _activity(n_users: int, n_items: int, n_ratings: int, generator: np.random.Generator) -> _Integers:
    """Ratings of each user: log-normal, from 12 to half of the catalogue, `n_ratings` in all."""
    low, high = 12, max(n_items // 2, n_ratings // n_users + 1)
    activity = generator.lognormal(0, 0.8, n_users)
    counts: _Integers = np.clip(activity * n_ratings / activity.sum(), low, high).astype(np.int64)
    while (missing := n_ratings - int(counts.sum())) != 0:
        adjustable = np.flatnonzero(counts < high if missing > 0 else counts > low)
        some = generator.permutation(adjustable)[: abs(missing)]
        counts[some] += np.sign(missing)
    return counts


def _timestamps(user_rows: _Integers, years: _Integers, generator: np.random.Generator) -> _Integers:
    """An evening within the years in which the user is active, not before the release of the film."""
    n_users = int(user_rows.max()) + 1
    joined = generator.uniform(_FIRST_RATED_AT, _LAST_RATED_AT - _YEAR, n_users)[user_rows]
    left = np.minimum(joined + generator.exponential(2 * _YEAR, n_users)[user_rows] + 30 * _DAY, _LAST_RATED_AT - _DAY)
    rated = generator.uniform(joined, left)
    released = (years - 1970) * _YEAR + generator.uniform(0, 300 * _DAY, len(years))
    rated = np.minimum(np.maximum(rated, released), _LAST_RATED_AT - _DAY)
    evening = generator.uniform(17, 24, len(years)) * 3600
    seconds: _Integers = (rated // _DAY * _DAY + evening).astype(np.int64)
    return seconds


def _user_ids(n_users: int, generator: np.random.Generator) -> tuple[str, ...]:
    """`lena.meyer`; from the second of that name on `lena.meyer2`."""
    names = [f"{first}.{last}" for first in WORDS["first_names"] for last in WORDS["last_names"]]
    order = generator.permutation(len(names)).tolist()
    rounds = ((names[order[n % len(order)]], n // len(order) + 1) for n in range(n_users))
    return tuple(name if nth == 1 else f"{name}{nth}" for name, nth in rounds)


def _slug(title: str) -> str:
    plain = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode().lower().replace("'", "")
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")
