"""Recommendations per second over HTTP, compared with a bare typed JSON route of the same server and response.

    .venv/bin/python -m benchmarks.recommendations_http ../shared/data/ml-latest-small [--seconds 4] [--rounds 5]

One worker on SQLite, a trained version of MovieLens small with titles, n = 10, the user with the number of ratings
nearest to 165. `wrk` uses eight keep-alive connections; the variants take turns in each round; medians.

bare        FastAPI on uvicorn returns one Pydantic object, created once, with the same content
read        the user's ratings are read and folded in for every request (PALATE_USER_CACHE_SIZE=0)
explained   the same with `explain=true`: five reasons for each item
by lower    the same with `rank_by=lower`: every item is scored with its variance (only if requested)
cached      nothing has changed since the user's last request
others rate the same while another process posts ratings of other users, about 200 a second
training    the same as `read` while a training run uses another core
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx

from app.demo.service_process import HOST, free_port, running_service
from benchmarks.http_folds import train
from benchmarks.http_load import Load, load

WANTED_RATINGS = 165
_WRITER = """
import sys, time, httpx
with httpx.Client(base_url=sys.argv[1]) as client:
    while True:
        client.post("/v1/ratings", json={"user_id": "somebody-else", "item_id": "1", "value": 3 + time.time() % 1})
        time.sleep(0.004)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of ratings.csv and movies.csv")
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--keep", type=Path, help="folder for the trained service, used again if it is there")
    parser.add_argument(
        "--only", nargs="*", default=["bare", "read", "explained", "cached", "others rate", "training", "change"]
    )
    arguments = parser.parse_args()
    with contextlib.ExitStack() as stack:
        data_dir = arguments.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        if not (data_dir / "versions").exists():
            fill(data_dir, arguments.folder)
        user = user_with(arguments.folder / "ratings.csv", WANTED_RATINGS)
        path = f"/v1/users/{user}/recommendations?n=10"
        never = {"PALATE_RETRAIN_ENABLED": "false"}
        cached_url = stack.enter_context(running_service(data_dir, environment=never)).url
        read_environment = {**never, "PALATE_USER_CACHE_SIZE": "0", "PALATE_TRAINER": "external"}
        read = stack.enter_context(running_service(data_dir, environment=read_environment)).url
        answer = httpx.get(cached_url + path).raise_for_status().content
        bare = stack.enter_context(bare_route(data_dir, answer))
        assert httpx.get(f"{bare}/bare").content == answer, "not the same answer"
        urls = {
            "bare": f"{bare}/bare",
            "read": read + path,
            "cached": cached_url + path,
            "others rate": cached_url + path,
        }
        urls |= {"explained": f"{read}{path}&explain=true", "by lower": f"{read}{path}&rank_by=lower"}
        urls = {name: url for name, url in urls.items() if name in arguments.only}
        print(f"user {user}, {len(answer)} bytes an answer")
        compare(urls, cached_url, arguments.rounds, arguments.seconds)
        if "change" in arguments.only:
            change(cached_url, user)
        if "training" in arguments.only:
            under_training(cached_url, read + path, arguments.rounds, arguments.seconds)


def fill(data_dir: Path, folder: Path) -> None:
    """A service with the ratings and titles of MovieLens, trained once."""
    environment = {**os.environ, "PALATE_DATA_DIR": str(data_dir)}
    for what, name in (("import", "ratings.csv"), ("import-items", "movies.csv")):
        command = [sys.executable, "-m", "app.cli", what, str(folder / name)]
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    with (
        running_service(data_dir, environment={"PALATE_RETRAIN_ENABLED": "false"}) as service,
        httpx.Client(base_url=service.url, timeout=300) as client,
    ):
        train(client)


def user_with(ratings: Path, wanted: int) -> str:
    with ratings.open() as file:
        counts = Counter(row["userId"] for row in csv.DictReader(file))
    return min(counts, key=lambda user: (abs(counts[user] - wanted), int(user)))


@contextlib.contextmanager
def bare_route(folder: Path, answer: bytes) -> Iterator[str]:
    """The bare route in a separate process, on uvicorn with the settings of the service."""
    file, port = folder / "answer.json", free_port()
    file.write_bytes(answer)
    command = [sys.executable, "-m", "uvicorn", "benchmarks.bare_route:app", "--port", str(port), "--no-access-log"]
    environment = {**os.environ, "PALATE_BENCHMARK_ANSWER": str(file)}
    process = subprocess.Popen([*command, "--log-level", "warning"], env=environment)
    url = f"http://{HOST}:{port}"
    try:
        while True:
            with contextlib.suppress(httpx.TransportError):
                httpx.get(f"{url}/bare").raise_for_status()
                break
            time.sleep(0.05)
        yield url
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def somebody_rating(url: str) -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-c", _WRITER, url])
    try:
        time.sleep(1)
        yield
    finally:
        process.kill()
        process.wait()


def compare(urls: dict[str, str], rated_url: str, rounds: int, seconds: float) -> None:
    """Measure the variants in turn; a ratio is taken within each round."""
    seen: dict[str, list[Load]] = {name: [] for name in urls}
    for url in urls.values():
        load(url, 1)
    for _ in range(rounds):
        for name, url in urls.items():
            with somebody_rating(rated_url) if name == "others rate" else contextlib.nullcontext():
                seen[name].append(load(url, seconds))
    for name, loads in seen.items():
        median = medians(loads)
        line = f"{median.line(name)}   p99 is {median.p99 / median.p50:.1f} p50"
        if "bare" in seen and name != "bare":
            ratios = [one.rate / bare.rate for one, bare in zip(loads, seen["bare"], strict=True)]
            line += f"   {statistics.median(ratios):.1%} of the bare route"
        print(line, flush=True)


def medians(loads: list[Load]) -> Load:
    rate, p50, p99 = (statistics.median(getattr(one, name) for one in loads) for name in ("rate", "p50", "p99"))
    return Load(rate, p50, p99, sum(one.errors for one in loads))


def change(url: str, user: str, n: int = 300) -> None:
    """A rating, then the recommendation that it changes, over one keep-alive connection."""
    both, posts = [], []
    with httpx.Client(base_url=url) as client:
        path = f"/v1/users/{user}/recommendations?n=10"
        before = client.get(path).raise_for_status().content
        for turn in range(n):
            started = time.perf_counter()
            rating = {"user_id": user, "item_id": "1", "value": 1.0 + 4.0 * (turn % 2)}
            client.post("/v1/ratings", json=rating).raise_for_status()
            posted = time.perf_counter()
            after = client.get(path).raise_for_status().content
            both.append(time.perf_counter() - started)
            posts.append(posted - started)
            assert after != before, "the rating did not change the answer"
            before = after
    print(
        f"rating, then changed recommendation: median {statistics.median(both) * 1e3:.2f} ms for both calls, "
        f"{statistics.median(posts) * 1e3:.2f} ms of it the rating"
    )


def under_training(service: str, url: str, rounds: int, seconds: float) -> None:
    idle = medians([load(url, seconds) for _ in range(rounds)])
    with httpx.Client(base_url=service, timeout=60) as client:
        run = client.post("/v1/training-runs", json={"n_epochs": 10_000, "patience": 10_000}).json()
        while client.get(f"/v1/training-runs/{run['id']}").json()["status"] == "queued":
            time.sleep(0.05)
        busy = medians([load(url, seconds) for _ in range(rounds)])
        status = client.get(f"/v1/training-runs/{run['id']}").json()["status"]
        client.post(f"/v1/training-runs/{run['id']}/cancel").raise_for_status()
    assert status == "running", status
    print(idle.line("read, idle"))
    print(f"{busy.line('read, while training')}   p99 is {busy.p99 / idle.p99:.2f} of the idle p99")


if __name__ == "__main__":
    main()
