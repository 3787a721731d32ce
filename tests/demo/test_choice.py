"""What the demo picks to show."""

from typing import Any

from app.demo.choice import changes, most_influential_rating, user_with_clear_preferences

Json = dict[str, Any]


def test_the_user_who_lifts_one_category_above_the_rest_is_chosen() -> None:
    categories = {str(item): ["Sci-Fi" if item % 2 else "Drama"] for item in range(60)}
    flat = [_rating("flat", item, 3.0 + item // 2 % 2) for item in range(60)]
    fan = [_rating("fan", item, 5.0 if item % 2 else 2.0) for item in range(60)]
    assert user_with_clear_preferences(flat + fan, categories) == "fan"


def test_a_user_with_few_ratings_is_chosen_only_when_there_is_no_other() -> None:
    few = [_rating("few", item, 5.0 if item else 0.5) for item in range(3)]
    many = [_rating("many", item, 3.0) for item in range(50)]
    assert user_with_clear_preferences(few + many, {}) == "many"
    assert user_with_clear_preferences(few, {}) == "few"
    assert user_with_clear_preferences([], {}) is None


def test_changes_name_what_moved_what_is_new_and_what_is_gone() -> None:
    rows = changes(_list("abc"), _list("cax"))
    assert [(row.item["item_id"], row.rank, row.rank_before) for row in rows] == [
        ("c", 1, 3),
        ("a", 2, 1),
        ("x", 3, None),
        ("b", None, 2),
    ]


def test_the_rating_that_changes_the_list_most_is_chosen() -> None:
    def list_with(item: Json, value: float) -> list[Json]:
        return _list("xyz") if (item["item_id"], value) == ("s", 5.0) else _list("acb")

    assert most_influential_rating(_list("abc"), _list("rs"), (0.5, 5.0), list_with) == ({"item_id": "s"}, 5.0)


def _rating(user_id: str, item: int, value: float) -> Json:
    return {"user_id": user_id, "item_id": str(item), "value": value}


def _list(item_ids: str) -> list[Json]:
    return [{"item_id": item_id} for item_id in item_ids]
