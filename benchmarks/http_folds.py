"""Accuracy through HTTP on MovieLens small: import the training folds, train, predict every test pair.

    .venv/bin/python -m benchmarks.http_folds ../shared/data/ml-latest-small/ratings.csv [--categories] [--unseen-films]

Folds: crc32("userId,movieId") % 5. Test pairs of unknown items count too. Nothing is chosen on the test folds.
With --categories the genres of all films are uploaded, from movies.csv in the folder of the ratings. With
--unseen-films folds are of films, crc32("movieId") % 5: no rating of a film of the test fold is known.
"""

from __future__ import annotations

import argparse
import csv
import io
import statistics
import tempfile
import time
import zlib
from pathlib import Path

import httpx
import numpy as np

from app.demo.service_process import running_service

N_FOLDS = 5
CHUNK = 10_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ratings", type=Path)
    parser.add_argument("--folds", type=int, nargs="*", default=list(range(N_FOLDS)))
    parser.add_argument("--categories", action="store_true")
    parser.add_argument("--unseen-films", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    rows = [row[:3] for row in csv.reader(arguments.ratings.open())][1:]
    keys = [item if arguments.unseen_films else f"{user},{item}" for user, item, _ in rows]
    folds = [zlib.crc32(key.encode()) % N_FOLDS for key in keys]
    genres = _genres(arguments.ratings.parent / "movies.csv") if arguments.categories else {}
    print(f"{'fold':>4} {'train':>7} {'test':>6} {'RMSE':>7} {'MAE':>7} {'80 % cover':>10} {'training s':>10}")
    results = [_measure(rows, folds, fold, genres, arguments.threads) for fold in arguments.folds]
    means = [statistics.mean(column) for column in zip(*results, strict=True)]
    print(f"mean {'':>14} {means[0]:7.4f} {means[1]:7.4f} {means[2]:10.3f} {means[3]:10.1f}")


def _genres(path: Path) -> dict[str, list[str]]:
    """Genres of each film; "(no genres listed)" is none."""
    films = list(csv.reader(path.open(encoding="utf-8")))[1:]
    return {film: [name for name in genres.split("|") if not name.startswith("(")] for film, _, genres in films}


def _measure(
    rows: list[list[str]], folds: list[int], fold: int, genres: dict[str, list[str]], n_threads: int
) -> tuple[float, float, float, float]:
    known = [row for row, its in zip(rows, folds, strict=True) if its != fold]
    test = [row for row, its in zip(rows, folds, strict=True) if its == fold]
    environment = {"PALATE_RETRAIN_ENABLED": "false", "PALATE_TRAINING_N_THREADS": str(n_threads)}
    with (
        tempfile.TemporaryDirectory() as folder,
        running_service(Path(folder), environment=environment) as service,
        httpx.Client(base_url=service.url, timeout=300) as client,
    ):
        _import(client, known)
        _describe(client, genres)
        seconds = train(client)
        predictions = _predict(client, test)
    actual = np.array([float(value) for _, _, value in test])
    value, lower, upper = (np.array([each[name] for each in predictions]) for name in ("value", "lower", "upper"))
    rmse = float(np.sqrt(np.mean((actual - value) ** 2)))
    mae = float(np.mean(np.abs(actual - value)))
    cover = float(np.mean((lower <= actual) & (actual <= upper)))
    print(f"{fold:>4} {len(known):>7} {len(test):>6} {rmse:7.4f} {mae:7.4f} {cover:10.3f} {seconds:10.1f}", flush=True)
    return rmse, mae, cover, seconds


def _import(client: httpx.Client, rows: list[list[str]]) -> None:
    body = io.StringIO()
    csv.writer(body).writerows([["user_id", "item_id", "value"], *rows])
    headers = {"Content-Type": "text/csv"}
    report = client.post("/v1/ratings/import", content=body.getvalue(), headers=headers).raise_for_status().json()
    assert report["created"] == len(rows), report


def _describe(client: httpx.Client, genres: dict[str, list[str]]) -> None:
    items = [{"item_id": film, "categories": names} for film, names in genres.items()]
    for start in range(0, len(items), CHUNK):
        client.post("/v1/items/batch", json={"items": items[start : start + CHUNK]}).raise_for_status()


def train(client: httpx.Client) -> float:
    """Seconds from requesting a training with default settings until its version is served."""
    started = time.perf_counter()
    run = client.post("/v1/training-runs", json={}).raise_for_status().json()
    while run["status"] in {"queued", "running"}:
        time.sleep(0.1)
        run = client.get(f"/v1/training-runs/{run['id']}").raise_for_status().json()
    assert run["status"] == "succeeded", run
    while client.get("/v1/status").json()["model_version"] != run["version"]:
        time.sleep(0.05)
    return time.perf_counter() - started


def _predict(client: httpx.Client, rows: list[list[str]]) -> list[dict[str, float]]:
    pairs = [{"user_id": user, "item_id": item} for user, item, _ in rows]
    predictions: list[dict[str, float]] = []
    for start in range(0, len(pairs), CHUNK):
        answer = client.post("/v1/predictions", json={"pairs": pairs[start : start + CHUNK]}).raise_for_status().json()
        predictions += answer["predictions"]
    return predictions


if __name__ == "__main__":
    main()
