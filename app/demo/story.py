"""The steps of the demo: import ratings, train, recommend to a user, and add a rating that changes the list."""

from __future__ import annotations

import csv
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from app.demo.choice import Change, changes, most_influential_rating, user_with_clear_preferences
from app.demo.service_client import Json, ServiceClient
from app.demo.world import sample_world, write_items_csv, write_ratings_csv

TOP = 10
_MAX_RATINGS_READ = 100_000  # to choose a user from
_MAX_WIDTH = 100  # of a table, in characters
_CHUNK = 256 << 10
_IDS, _TITLES, _CATEGORIES = ("movieId", "item_id"), ("title",), ("genres", "categories")


class StoryFailed(Exception):
    """The demo cannot continue; the message says why."""


def run(base_url: str, ratings_path: Path | None, items_path: Path | None, console: Console) -> str:
    """Run the demo against the service at `base_url`, with the sample data if no file is passed.

    Returns the id of the user it shows. Raises StoryFailed, ServiceRefused, httpx.TransportError and OSError.
    """
    with ServiceClient(base_url) as service, _files(ratings_path, items_path) as (ratings, items):
        _import(service, ratings, items, console)
        _train(service, console)
        items_by_id = service.all_items()
        user_id = _choose_user(service, items_by_id)
        top = _show_user(service, user_id, items_by_id, console)
        _rate_once_more(service, user_id, top, items_by_id, console)
    return user_id


@contextmanager
def _files(ratings: Path | None, items: Path | None) -> Iterator[tuple[Path, Path | None]]:
    """The files, with a movies.csv beside the ratings if there is one; or sample data in a temporary folder."""
    if ratings is not None:
        beside = ratings.with_name("movies.csv")
        yield ratings, items or (beside if beside.exists() else None)
        return
    with TemporaryDirectory(prefix="palate-sample-") as folder:
        world = sample_world()
        write_ratings_csv(world, Path(folder) / "ratings.csv")
        write_items_csv(world, Path(folder) / "movies.csv")
        yield Path(folder) / "ratings.csv", items or Path(folder) / "movies.csv"


def _import(service: ServiceClient, ratings: Path, items: Path | None, console: Console) -> None:
    if items is not None:
        rows = _read_items(items)
        service.put_items(rows)
        console.print(f"[bold]{len(rows):,}[/] titles stored")
    began = time.perf_counter()
    report = _import_ratings(service, ratings, console)
    took = time.perf_counter() - began
    stored = report["created"] + report["updated"] + report["unchanged"]
    if report["stopped_because"] or not stored:
        raise StoryFailed(f"the import of {ratings} stopped: {report['stopped_because'] or _first_bad(report)}")
    bad = f", {report['bad']:,} bad lines left out ({escape(_first_bad(report))})" if report["bad"] else ""
    console.print(f"[bold]{stored:,}[/] ratings stored in {took:.1f} s{bad}")


def _import_ratings(service: ServiceClient, ratings: Path, console: Console) -> Json:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeElapsedColumn())
    with (
        Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress,
        ratings.open("rb") as file,
    ):
        task = progress.add_task("importing ratings", total=ratings.stat().st_size)

        def chunks() -> Iterator[bytes]:
            while chunk := file.read(_CHUNK):
                yield chunk
                progress.advance(task, len(chunk))

        return service.import_ratings(chunks())


def _first_bad(report: Json) -> str:
    first = next(iter(report["bad_lines"]), None)
    return f"line {first['line']}: {first['reason']}" if first else "no ratings in it"


def _read_items(path: Path) -> list[Json]:
    """Rows of a MovieLens movies.csv, or of the same with our own column names, as the batch endpoint takes them."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, restval="")
            columns = [_column(reader.fieldnames or (), names) for names in (_IDS, _TITLES, _CATEGORIES)]
            if columns[0] is None or columns[1] is None:
                raise StoryFailed(f"{path} has no columns movieId and title: import it with `palate import-items`")
            return [_item(*(row[column] if column else "" for column in columns)) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise StoryFailed(f"{path} is not a CSV file in UTF-8: {error}") from error


def _column(header: Sequence[str], names: Sequence[str]) -> str | None:
    return next((name for name in names if name in header), None)


def _item(item_id: str, title: str, categories: str) -> Json:
    names = [] if categories in ("", "(no genres listed)") else categories.split("|")
    return {"item_id": item_id, "title": title or None, "categories": names}


def _train(service: ServiceClient, console: Console) -> None:
    run_id = service.start_training()["id"]
    last: Json = {}
    columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("waiting for the trainer", total=None)
        for event in service.training_events(run_id):
            if event.name == "epoch":
                epoch = event.data
                last = last if _is_sweep(epoch) else epoch
                progress.update(task, completed=epoch["epoch"], total=epoch["n_epochs"], description=_epoch_text(epoch))
    run = service.training_run(run_id)
    if run["status"] != "succeeded":
        raise StoryFailed(f"training run {run_id} {run['status']}: {run['error'] or 'no reason given'}")
    _wait_until_served(service, run["version"])
    console.print(
        f"model version [bold]{run['version']}[/] trained in {_seconds(run):.1f} s, {_result_text(run, last)}"
    )


def _epoch_text(epoch: Json) -> str:
    """Progress of an epoch; the final fit trains on the hold-out too, so it has no test error."""
    holdout = epoch["holdout_rmse"]
    test_error = "on all ratings" if holdout is None else f"hold-out RMSE {holdout:.4f}"
    step = "averaging models" if _is_sweep(epoch) else f"train RMSE {epoch['train_rmse']:.4f}"
    return f"{step}, {test_error}, {_speed(epoch)}"


def _is_sweep(epoch: Json) -> bool:
    return epoch["phase"] in {"sample", "resample"}


def _result_text(run: Json, last: Json) -> str:
    holdout = run["metrics"].get("holdout_rmse")
    test_error = "too few ratings for a hold-out" if holdout is None else f"hold-out RMSE [bold]{holdout:.4f}[/]"
    return f"{test_error}, {_speed(last)}"


def _speed(epoch: Json) -> str:
    return f"{epoch['ratings_per_second'] / 1e6:.1f} M ratings/s"


def _seconds(run: Json) -> float:
    """From the start of the run to its end."""
    started, finished = (datetime.fromisoformat(run[name]) for name in ("started_at", "finished_at"))
    return (finished - started).total_seconds()


def _wait_until_served(service: ServiceClient, version: int, timeout: float = 10.0) -> None:
    """Wait until the service answers from this version."""
    deadline = time.monotonic() + timeout
    while (status := service.status())["model_version"] != version:
        if time.monotonic() > deadline:
            raise StoryFailed(f"version {version} is not served: {status['problem'] or 'no reason given'}")
        time.sleep(0.05)


def _choose_user(service: ServiceClient, items_by_id: dict[str, Json]) -> str:
    categories = {item_id: item["categories"] for item_id, item in items_by_id.items()}
    user_id = user_with_clear_preferences(service.some_ratings(_MAX_RATINGS_READ), categories)
    if user_id is None:
        raise StoryFailed("there are no ratings")
    return user_id


def _show_user(service: ServiceClient, user_id: str, items_by_id: dict[str, Json], console: Console) -> list[Json]:
    """Print the user's best-rated items and recommendations; returns the recommendations."""
    ratings = sorted(service.ratings_of(user_id), key=lambda rating: -rating["value"])
    liked = _table(f"user {escape(user_id)} gave {len(ratings)} ratings; liked best", console, "rating")
    for rating in ratings[:TOP]:
        liked.add_row(*_cells(items_by_id.get(rating["item_id"], rating)), f"{rating['value']:g}")
    answer = service.recommend(user_id, TOP)
    if not answer["items"]:
        raise StoryFailed(f"{user_id} has rated every item; there is nothing to recommend")
    recommended = _table(
        f"recommended by model version {answer['model_version']}", console, "predicted", "80 % interval"
    )
    for item in answer["items"]:
        recommended.add_row(*_cells(item), f"{item['value']:.2f}", f"{item['lower']:.1f} - {item['upper']:.1f}")
    console.print("", liked, "", recommended, sep="\n")
    items: list[Json] = answer["items"]
    return items


def _rate_once_more(
    service: ServiceClient, user_id: str, top: list[Json], items_by_id: dict[str, Json], console: Console
) -> None:
    """Store the rating that changes the list most, and print the new list."""
    item, value = _choose_rating(service, user_id, top)
    began = time.perf_counter()
    service.rate(user_id, item["item_id"], value)
    answer = service.recommend(user_id, TOP)
    took = 1000 * (time.perf_counter() - began)
    title = escape(items_by_id.get(item["item_id"], item)["title"] or item["item_id"])
    console.print(f"\nuser {escape(user_id)} now rates [bold]{title}[/] with [bold]{value:g}[/]")
    moved = _table(f"the list {took:.0f} ms later, without any training", console, "predicted", "moved")
    for change in changes(top, answer["items"]):
        style = "dim" if change.is_gone else None
        moved.add_row(
            *_cells(change.item), "" if change.is_gone else f"{change.item['value']:.2f}", _moved(change), style=style
        )
    console.print(moved)


def _choose_rating(service: ServiceClient, user_id: str, top: list[Json]) -> tuple[Json, float]:
    mine = [{"item_id": rating["item_id"], "value": rating["value"]} for rating in service.ratings_of(user_id)]
    excluded = {rating["item_id"] for rating in mine} | {item["item_id"] for item in top}
    usual = {category for item in top for category in item["categories"]}
    unrated = [item for item in service.popular_items(200) if item["item_id"] not in excluded]
    unusual = [item for item in unrated if not usual & set(item["categories"])] or unrated
    scale = service.status()["rating_scale"]

    def list_with(item: Json, value: float) -> list[Json]:
        return service.recommend_for([*mine, {"item_id": item["item_id"], "value": value}], TOP)

    return most_influential_rating(top, unusual, (scale["min"], scale["max"]), list_with)


def _table(title: str, console: Console, *columns: str) -> Table:
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
    if change.is_gone:
        return "[red]gone[/]"
    if change.rank is None or change.rank_before is None:
        return "[magenta]new[/]"
    steps = change.rank_before - change.rank
    if not steps:
        return "-"
    return f"[green]up {steps}[/]" if steps > 0 else f"[yellow]down {-steps}[/]"


def show_addresses(base_url: str, user_id: str, console: Console) -> None:
    """Print the addresses of the running service."""
    address: Any = f"{base_url}/v1/users/{quote(user_id, safe='')}/recommendations"
    console.print(f"\n[bold]dashboard[/]  {base_url}/\n[bold]API[/]        {base_url}/docs")
    console.print(f"[bold]try[/]        curl '{address}?n=5'", soft_wrap=True)
