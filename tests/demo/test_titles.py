import re

import numpy as np
import pytest

from app.demo.titles import GENRES, WORDS, sequel_of, titles


@pytest.mark.parametrize("genre", GENRES)
def test_every_slot_of_a_pattern_has_words(genre: str) -> None:
    words = WORDS["genres"][genre]["words"]
    for pattern in WORDS["genres"][genre]["patterns"]:
        for slot in re.findall(r"\{(\w+)\}", pattern):
            assert words.get(slot) or WORDS["shared_words"].get(slot), f"{pattern}: {slot}"


def test_titles_are_all_different_and_have_no_empty_slot() -> None:
    made = titles(GENRES * 20, np.random.default_rng(1))
    assert len(set(made)) == len(made) == 20 * len(GENRES)
    assert not [title for title in made if "{" in title]


def test_a_sequel_names_the_film_that_it_follows() -> None:
    assert sequel_of("Cold Creek", "Western", np.random.default_rng(0)).startswith("Cold Creek")
