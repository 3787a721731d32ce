"""Invented film titles by genre: patterns whose slots are filled from the word lists in `words.json`."""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

import numpy as np

WORDS: Mapping[str, Any] = json.loads((files("app.demo") / "words.json").read_text(encoding="utf-8"))
"""Names of people; words that all genres share; by genre, title patterns and the words of their `{slot}`s."""

GENRES: tuple[str, ...] = tuple(WORDS["genres"])

_MAX_USES_OF_A_WORD = 3
_A_BEFORE_VOWEL = re.compile(r"\bA(?= [AEIOU])")
_SLOT = re.compile(r"\{(\w+)\}")

_SEQUELS = ("{title} II", "{title}: Aftermath", "{title}: The Return", "{title}: Legacy", "{title}: Origins")
_LIGHT_SEQUELS = ("{title} 2", "{title}, Again", "{title} Too")
_LIGHT_GENRES = ("Comedy", "Family", "Romance")


def titles(genres: Sequence[str], generator: np.random.Generator) -> list[str]:
    """One title per entry of `genres`, all different; no word is used more than a few times in a genre."""
    uses: Counter[str] = Counter()
    patterns_left: dict[str, list[str]] = {}
    made: list[str] = []
    for genre in genres:
        made.append(_new_title(genre, patterns_left.setdefault(genre, []), uses, made, generator))
    return made


def sequel_of(title: str, genre: str, generator: np.random.Generator) -> str:
    """`Cold Creek` becomes `Cold Creek II` or similar; comedies, family films and romances get lighter forms."""
    forms = _LIGHT_SEQUELS if genre in _LIGHT_GENRES else _SEQUELS
    return forms[int(generator.integers(len(forms)))].format(title=title)


def _new_title(
    genre: str, patterns_left: list[str], uses: Counter[str], made: Sequence[str], generator: np.random.Generator
) -> str:
    """The next pattern, filled with words that are not used up; after 50 tries any new title will do."""
    for attempt in range(10_000):
        if not patterns_left:
            patterns_left.extend(generator.permutation(WORDS["genres"][genre]["patterns"]).tolist())
        title, words = _fill(patterns_left.pop(), genre, generator)
        is_fresh = attempt >= 50 or all(uses[f"{genre} {word}"] < _MAX_USES_OF_A_WORD for word in words)
        if title not in made and is_fresh and len(set(words)) == len(words):
            uses.update(f"{genre} {word}" for word in words)
            return title
    raise ValueError(f"no more titles for the genre {genre}")


def _fill(pattern: str, genre: str, generator: np.random.Generator) -> tuple[str, list[str]]:
    words: list[str] = []

    def word(slot: re.Match[str]) -> str:
        choices = WORDS["genres"][genre]["words"].get(slot[1]) or WORDS["shared_words"][slot[1]]
        words.append(choices[int(generator.integers(len(choices)))])
        return words[-1]

    return _A_BEFORE_VOWEL.sub("An", _SLOT.sub(word, pattern)), words
