"""The lists of many users in a file, through the command line."""

import csv
from pathlib import Path

import pytest
from pyarrow.parquet import read_table
from typer.testing import CliRunner

from app.cli.__main__ import app
from app.db.engine import open_database
from app.recommendations.batch_export import all_user_ids, count_users
from app.settings import Settings
from tests.recommendations.conftest import FANS_OF_LOVE, FANS_OF_SPACE, SPACE, Planted


def _recommend(settings: Settings, *arguments: str) -> str:
    environment = {"PALATE_DATA_DIR": str(settings.data_dir), "PALATE_DATABASE_URL": settings.database_url or ""}
    ran = CliRunner().invoke(
        app, ["recommend", *arguments], env={key: value for key, value in environment.items() if value}
    )
    assert ran.exit_code == 0, ran.output
    return ran.output


def test_the_list_of_every_user_is_the_one_that_the_service_returns(
    planted: Planted, settings: Settings, tmp_path: Path
) -> None:
    client, train = planted
    train()
    out = tmp_path / "lists.csv"
    output = _recommend(settings, "--all", "--out", str(out), "--n", "3")
    rows = list(csv.DictReader(out.open(encoding="utf-8")))
    assert f"{len(rows)} lines" in output.replace("\n", "")
    assert list(dict.fromkeys(row["user_id"] for row in rows)) == [*FANS_OF_SPACE, *FANS_OF_LOVE]
    for user in ("astronaut-1", "romantic-11"):
        items = client.get(f"/v1/users/{user}/recommendations", params={"n": 3}).json()["items"]
        own = [row for row in rows if row["user_id"] == user]
        assert [row["item_id"] for row in own] == [item["item_id"] for item in items]
        assert [float(row["value"]) for row in own] == [item["value"] for item in items]
        assert [float(row["upper"]) for row in own] == [item["upper"] for item in items]
        assert [int(row["rank"]) for row in own] == list(range(1, len(items) + 1))
        assert all(row["title"] == row["item_id"].upper() for row in own)
    assert [path.name for path in tmp_path.iterdir() if "lists" in path.name] == ["lists.csv"]


def test_users_can_be_selected_and_items_filtered(planted: Planted, settings: Settings, tmp_path: Path) -> None:
    _, train = planted
    train()
    out = tmp_path / "lists.csv"
    _recommend(settings, "astronaut-1", "nobody", "--out", str(out), "--category", "space")
    rows = list(csv.DictReader(out.open(encoding="utf-8")))
    assert {row["user_id"] for row in rows} == {"astronaut-1", "nobody"}
    assert {row["item_id"] for row in rows} <= set(SPACE)


def test_all_users_are_found_page_by_page(planted: Planted, settings: Settings) -> None:
    database = open_database(settings)
    assert sorted(all_user_ids(database)) == sorted([*FANS_OF_SPACE, *FANS_OF_LOVE])
    assert count_users(database) == 24
    database.dispose()


def test_a_parquet_file_holds_the_same(planted: Planted, settings: Settings, tmp_path: Path) -> None:
    _, train = planted
    train()
    for name in ("lists.csv", "lists.parquet"):
        _recommend(settings, "--all", "--out", str(tmp_path / name))
    table = read_table(tmp_path / "lists.parquet")
    rows = list(csv.DictReader((tmp_path / "lists.csv").open(encoding="utf-8")))
    assert table.column_names == list(rows[0])
    assert table.column("item_id").to_pylist() == [row["item_id"] for row in rows]
    assert table.column("value").to_pylist() == pytest.approx([float(row["value"]) for row in rows])


@pytest.mark.parametrize("arguments", [[], ["ann", "--all"]])
def test_either_users_or_all_must_be_given(arguments: list[str], settings: Settings) -> None:
    ran = CliRunner().invoke(app, ["recommend", *arguments], env={"PALATE_DATA_DIR": str(settings.data_dir)})
    assert ran.exit_code == 2
