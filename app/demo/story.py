"""The steps of the demo: import ratings, train, recommend to a user, and add a rating that changes the list."""

from __future__ import annotations

import csv
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn
from rich.table import Table

from app.demo.choice import Change, changes, most_influential_rating, user_with_clear_preferences
from app.demo.service_client import Json, ServiceClient
from app.demo.world import sample_world, write_items_csv, write_ratings_csv

console = Console(highlight=False)

TOP = 10
_MAX_RATINGS_READ = 100_000  # to choose a user from
_MAX_WIDTH = 100  # of a table, in characters
_IDS, _TITLES, _CATEGORIES = ("movieId", "item_id"), ("title",), ("genres", "categories")


class DemoFailed(Exception):
    """The demo cannot continue; the message says why."""


def run(base_url: str, ratings_path: Path | None, items_path: Path | None) -> str:
    """Run the demo against the service at `base_url`, with the sample data if no file is passed.

    Returns the id of the user it shows. Raises DemoFailed, ServiceRefused, httpx.TransportError and OSError.
    """
    with ServiceClient(base_url) as service, _files(ratings_path, items_path) as (ratings, items):
        if items is not None:
            console.print(f"[bold]{service.put_items(_read_items(items)):,}[/] titles stored")
        _import(service, ratings)
        _train(service)
        items_by_id = {item["item_id"]: item for item in service.pages("/v1/items", "items")}
        categories = {item_id: item["categories"] for item_id, item in items_by_id.items()}
        user_id = user_with_clear_preferences(service.export(_MAX_RATINGS_READ), categories)
        if user_id is None:
            raise DemoFailed("there are no ratings")
        top = _show_user(service, user_id, items_by_id)
        _rate_once_more(service, user_id, top, items_by_id)
    return user_id


@contextmanager
def _files(ratings: Path | None, items: Path | None) -> Iterator[tuple[Path, Path | None]]:
    """The files, with a movies.csv beside the ratings if there is one; or sample data in a temporary folder."""
    with TemporaryDirectory(prefix="palate-sample-") as folder:
        if ratings is None:
            world, ratings = sample_world(), Path(folder) / "ratings.csv"
            write_ratings_csv(world, ratings)
            write_items_csv(world, Path(folder) / "movies.csv")
        beside = ratings.with_name("movies.csv")
        yield ratings, items or (beside if beside.exists() else None)


def _read_items(path: Path) -> list[Json]:
    """Rows of a MovieLens movies.csv, or of the same with our own column names, as the batch endpoint takes them."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, restval="")
            header = reader.fieldnames or ()
            columns = [next((name for name in names if name in header), "") for names in (_IDS, _TITLES, _CATEGORIES)]
            if not (columns[0] and columns[1]):
                raise DemoFailed(f"{path} has no columns movieId and title: import it with `palate import-items`")
            return [_item(*(row.get(column, "") for column in columns)) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DemoFailed(f"{path} is not a CSV file in UTF-8: {error}") from error


def _item(item_id: str, title: str, categories: str) -> Json:
    names = [] if categories in ("", "(no genres listed)") else categories.split("|")
    return {"item_id": item_id, "title": title or None, "categories": names}


def _progress(*columns: ProgressColumn) -> Progress:
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def _import(service: ServiceClient, ratings: Path) -> None:
    began = time.perf_counter()
    columns = (TextColumn("importing ratings"), BarColumn(), DownloadColumn())
    with _progress(*columns) as progress, progress.open(ratings, "rb") as file:
        headers = {"content-type": "text/csv"}
        report = service.call("POST", "/v1/ratings/import", content=file, headers=headers, timeout=None)
    took = time.perf_counter() - began
    stored = report["created"] + report["updated"] + report["unchanged"]
    first_bad = next((f"line {bad['line']}: {bad['reason']}" for bad in report["bad_lines"]), "no ratings in it")
    if report["stopped_because"] or not stored:
        raise DemoFailed(f"the import of {ratings} stopped: {report['stopped_because'] or first_bad}")
    bad = f", {report['bad']:,} bad lines left out ({escape(first_bad)})" if report["bad"] else ""
    console.print(f"[bold]{stored:,}[/] ratings stored in {took:.1f} s{bad}")


def _train(service: ServiceClient) -> None:
    path = f"/v1/training-runs/{service.call('POST', '/v1/training-runs', json={})['id']}"
    speed = ""
    columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
    with _progress(*columns) as progress:
        task = progress.add_task("waiting for the trainer", total=None)
        for event in service.events(f"{path}/events"):
            if event.name == "epoch":
                epoch, is_sweep = event.data, event.data["phase"] in {"sample", "resample"}
                epoch_speed = f", {epoch['ratings_per_second'] / 1e6:.1f} M ratings/s"
                speed = speed if is_sweep else epoch_speed
                step = "averaging models" if is_sweep else f"train RMSE {epoch['train_rmse']:.4f}"
                text = f"{step}, {_error_text(epoch['holdout_rmse'], 'on all ratings')}{epoch_speed}"
                progress.update(task, completed=epoch["epoch"], total=epoch["n_epochs"], description=text)
    run = service.call("GET", path)
    if run["status"] != "succeeded":
        raise DemoFailed(f"training run {run['id']} {run['status']}: {run['error'] or 'no reason given'}")
    _wait_until_served(service, run["version"])
    started, finished = (datetime.fromisoformat(run[name]) for name in ("started_at", "finished_at"))
    seconds = (finished - started).total_seconds()
    error = _error_text(run["metrics"].get("holdout_rmse"), "too few ratings for a hold-out")
    console.print(f"model version [bold]{run['version']}[/] trained in {seconds:.1f} s, {error}{speed}")


def _error_text(holdout_rmse: float | None, without: str) -> str:
    """The final fit trains on the hold-out too, so it has no test error."""
    return without if holdout_rmse is None else f"hold-out RMSE [bold]{holdout_rmse:.4f}[/]"


def _wait_until_served(service: ServiceClient, version: int, timeout: float = 10.0) -> None:
    """Wait until the service answers from this version."""
    deadline = time.monotonic() + timeout
    while (status := service.call("GET", "/v1/status"))["model_version"] != version:
        if time.monotonic() > deadline:
            raise DemoFailed(f"version {version} is not served: {status['problem'] or 'no reason given'}")
        time.sleep(0.05)


def _show_user(service: ServiceClient, user_id: str, items_by_id: Mapping[str, Json]) -> list[Json]:
    """Print the user's best-rated items and recommendations; returns the recommendations."""
    ratings = sorted(service.ratings_of(user_id), key=lambda rating: -rating["value"])
    liked = _table(f"user {escape(user_id)} gave {len(ratings)} ratings; liked best", "rating")
    for rating in ratings[:TOP]:
        liked.add_row(*_cells(items_by_id.get(rating["item_id"], rating)), f"{rating['value']:g}")
    answer = service.recommend(user_id, TOP)
    if not answer["items"]:
        raise DemoFailed(f"{user_id} has rated every item; there is nothing to recommend")
    recommended = _table(f"recommended by model version {answer['model_version']}", "predicted", "80 % interval")
    for item in answer["items"]:
        recommended.add_row(*_cells(item), f"{item['value']:.2f}", f"{item['lower']:.1f} - {item['upper']:.1f}")
    console.print("", liked, "", recommended, sep="\n")
    items: list[Json] = answer["items"]
    return items


def _rate_once_more(service: ServiceClient, user_id: str, top: Sequence[Json], items_by_id: Mapping[str, Json]) -> None:
    """Store the rating that changes the list most, and print the new list."""
    item, value = _choose_rating(service, user_id, top)
    began = time.perf_counter()
    service.call("POST", "/v1/ratings", json={"user_id": user_id, "item_id": item["item_id"], "value": value})
    answer = service.recommend(user_id, TOP)
    took = 1000 * (time.perf_counter() - began)
    title, _ = _cells(items_by_id.get(item["item_id"], item))
    console.print(f"\nuser {escape(user_id)} now rates [bold]{title}[/] with [bold]{value:g}[/]")
    moved = _table(f"the list {took:.0f} ms later, without any training", "predicted", "moved")
    for change in changes(top, answer["items"]):
        predicted, style = ("", "dim") if change.rank is None else (f"{change.item['value']:.2f}", None)
        moved.add_row(*_cells(change.item), predicted, _moved(change), style=style)
    console.print(moved)


def _choose_rating(service: ServiceClient, user_id: str, top: Sequence[Json]) -> tuple[Json, float]:
    mine = [{"item_id": rating["item_id"], "value": rating["value"]} for rating in service.ratings_of(user_id)]
    excluded = {rating["item_id"] for rating in mine} | {item["item_id"] for item in top}
    usual = {category for item in top for category in item["categories"]}
    popular = service.call("GET", "/v1/items/popular", params={"n": 200})["items"]
    unrated = [item for item in popular if item["item_id"] not in excluded]
    unusual = [item for item in unrated if not usual & set(item["categories"])] or unrated
    scale = service.call("GET", "/v1/status")["rating_scale"]

    def list_with(item: Json, value: float) -> list[Json]:
        ratings = [*mine, {"item_id": item["item_id"], "value": value}]
        items: list[Json] = service.call("POST", "/v1/recommendations", json={"ratings": ratings, "n": TOP})["items"]
        return items

    return most_influential_rating(top, unusual, (scale["min"], scale["max"]), list_with)


def _table(title: str, *columns: str) -> Table:
    """Columns of numbers have a fixed width; long titles and lists of categories are cut off."""
    width = min(console.width, _MAX_WIDTH)
    table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 1, 0, 0), width=width)
    table.add_column("title", no_wrap=True, ratio=3)
    table.add_column("categories", style="cyan", no_wrap=True, ratio=2)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True, min_width=max(len(column), len("down 10")))
    return table


def _cells(item: Json) -> tuple[str, str]:
    return escape(item.get("title") or item["item_id"]), escape(", ".join(item.get("categories") or ()))


def _moved(change: Change) -> str:
    if change.rank is None:
        return "[red]gone[/]"
    if change.rank_before is None:
        return "[magenta]new[/]"
    steps = change.rank_before - change.rank
    if not steps:
        return "-"
    return f"[green]up {steps}[/]" if steps > 0 else f"[yellow]down {-steps}[/]"
