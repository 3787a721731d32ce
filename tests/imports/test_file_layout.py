"""The first line of a file decides how its lines are read."""

from typing import Any

import pytest

from app.errors import BadInput
from app.imports.file_layout import BadLine, Field, LayoutRules, Records, Table, parse_object, split

FIELDS = (
    Field.of("user_id", "user", is_required=True),
    Field.of("value", "rating", is_required=True),
    Field.of("rated_at", "time"),
)


def rules(**options: Any) -> LayoutRules:
    return LayoutRules(FIELDS, lambda columns: len(columns) == 2 and columns[1].isdigit(), **options)


@pytest.mark.parametrize(
    ("line", "layout"),
    [
        ("user,rating", Table(",", {"user_id": 0, "value": 1}, 2, has_header=True)),
        ("Rating;title;USER ID;Time", Table(";", {"user_id": 2, "value": 0, "rated_at": 3}, 4, has_header=True)),
        ("ann\t4", Table("\t", {"user_id": 0, "value": 1}, 2, has_header=False)),
        ("ann::4", Table("::", {"user_id": 0, "value": 1}, 2, has_header=False)),
        ("ann, the first\t4", Table("\t", {"user_id": 0, "value": 1}, 2, has_header=False)),
        ('{"User": "ann", "x": 1}', Records({"user_id": "User", "value": "value", "rated_at": "rated_at"})),
    ],
)
def test_a_layout_is_recognised_by_the_first_line(line: str, layout: Table | Records) -> None:
    assert rules().recognise(line) == layout


def test_named_columns_take_the_place_of_the_usual_names() -> None:
    named = rules(columns={"user_id": "who", "value": "liked"})
    assert named.recognise("liked,user,who") == Table(",", {"user_id": 2, "value": 0}, 3, has_header=True)
    with pytest.raises(BadInput, match="is no header with the columns 'who', 'liked'"):
        named.recognise("ann,4")


def test_a_format_that_is_stated_is_not_guessed() -> None:
    with pytest.raises(BadInput, match="is neither a header nor a record"):
        rules(file_format="tsv").recognise("user,rating")
    assert isinstance(rules(file_format="ndjson").recognise("user,rating"), Records)


def test_quotes_are_undone_and_the_number_of_columns_is_checked() -> None:
    table = Table(",", {"user_id": 0, "value": 1}, 2, has_header=False)
    assert table.split('"ann, ""the first""",4') == ['ann, "the first"', "4"]
    with pytest.raises(BadLine, match="has 3 columns, not 2"):
        table.split("ann,4,5")
    with pytest.raises(BadLine, match="is not a CSV record"):
        split('"ann,4', ",")


@pytest.mark.parametrize("text", ["[1]", "{", "[" * 100_000])
def test_a_line_of_ndjson_must_be_an_object(text: str) -> None:
    assert parse_object('{"user": 1}') == {"user": 1}
    with pytest.raises(BadLine, match=r"is not (JSON|a JSON object)"):
        parse_object(text)
