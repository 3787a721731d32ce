"""The demo reads files of titles."""

from pathlib import Path

import pytest

from app.demo.story import DemoFailed, _read_items


def test_titles_are_read_by_the_names_of_movielens_or_by_our_own(tmp_path: Path) -> None:
    movielens, ours = tmp_path / "movies.csv", tmp_path / "items.csv"
    movielens.write_text('movieId,title,genres\n1,"Dune, again",Sci-Fi|War\n2,Rain,(no genres listed)\n')
    ours.write_text("title,item_id\nDune,dune\n")
    assert _read_items(movielens) == [
        {"item_id": "1", "title": "Dune, again", "categories": ["Sci-Fi", "War"]},
        {"item_id": "2", "title": "Rain", "categories": []},
    ]
    assert _read_items(ours) == [{"item_id": "dune", "title": "Dune", "categories": []}]


@pytest.mark.parametrize("content", [b"", b"a,b\n1,2\n", b"movieId,title\n1,caf\xe9\n"])
def test_a_file_without_titles_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "movies.csv").write_bytes(content)
    with pytest.raises(DemoFailed, match=r"movies\.csv"):
        _read_items(tmp_path / "movies.csv")
