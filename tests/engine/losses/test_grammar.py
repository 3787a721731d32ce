"""What a loss may be written in, and that nothing else gets through."""

import random
import time

import pytest

from app.engine.losses.codegen import slope_statements
from app.engine.losses.declare import declare
from app.engine.losses.grammar import FUNCTIONS, InvalidLoss

ATTACKS = {
    "().__class__": 1,
    "r.__class__": 1,
    "r_hat.real": 1,
    "(lambda: r_hat)()": 8,
    "__import__(r_hat)": 1,
    "eval(r_hat)": 1,
    "r_hat + open(r)": 9,
    "log(r_hat)(r)": 1,
    "r_hat[0]": 6,
    "[r_hat for r in r]": 1,
    "'r_hat'": 1,
    'f"{r_hat}"': 2,
    "r_hat ** 10**9": 10,
    "9**9**9**9 * r_hat": 7,
    "r_hat ** r": 10,
    "2 ** r_hat": 6,
    "r_hat ** 1e9": 10,
    "1e400 * r_hat": 1,
    "r_hat / 0": 1,
    "r_hat / (1 - 1)": 1,
    "(-8)**0.5 * r_hat": 1,
    "r_hat; r": 6,
    "r_hat := 3": 7,
    "r_hat\n+ r": 6,
    "r_hat \\": 7,
    "\uff52_hat + r_hat": 1,  # a full-width r: Python reads it as r
    "r_hat + \u2071": 9,
    "r\u200b_hat": 2,
    "r_hat + \x00": 9,
    "r_hat # comment": 7,
    "true * r_hat": 1,
    "True * r_hat": 1,
    "None": 1,
    "...": 1,
    "r_hat if r > 1 else 2": 1,
    "r > r_hat": 1,
    "r_hat + (r > 1)": 10,
    "where(r, r_hat, 1)": 7,
    "where(r in r_hat, 1, 2)": 7,
    "not r_hat": 1,
    "r_hat // 2": 1,
    "r_hat @ r": 7,
    "r_hat % 2": 1,
    "r_hat & 2": 1,
    "~r_hat": 1,
    "r_hat + 1j": 9,
    "abs(r_hat, 1)": 1,
    "abs()": 1,
    "abs(x=r_hat)": 7,
    "abs(*r_hat)": 5,
    "theta * r_hat": 1,
    "delta * r_hat": 1,
    "abs": 1,
    "": 1,
    "   ": 1,
    "r_hat +": 1,
    "(r_hat": 1,
    "r r_hat": 3,
}


@pytest.mark.parametrize("text", ATTACKS, ids=ascii)
def test_what_is_no_arithmetic_is_refused_with_its_position(text):
    with pytest.raises(InvalidLoss) as refused:
        declare(text)
    assert refused.value.position == ATTACKS[text] - 1
    assert refused.value.what


LARGE = {
    "a million characters": "r_hat + " * 125_000 + "r",
    "a million brackets": "(" * 500_000 + "r_hat" + ")" * 500_000,
    "brackets": "(" * 400 + "r_hat" + ")" * 400,
    "minus signs": "-" * 900 + "r_hat",
    "calls": "abs(" * 150 + "r_hat" + ")" * 150,
    "powers": "**2" * 300 + "r_hat",
    "a long sum": "+".join(["r_hat"] * 160),
    "a long number": "9" * 999 + "*r_hat",
    "powers of powers": "(" * 60 + "r_hat" + "**16)" * 60,
    "comparisons": "where(" + "r < " * 200 + "r_hat, 1, 2)",
    "null bytes": "\0" * 1000,
    "a name": "r" * 900,
}


@pytest.mark.parametrize("name", LARGE)
def test_what_is_too_large_is_refused_at_once(name):
    started = time.process_time()
    with pytest.raises(InvalidLoss):
        declare(LARGE[name])
    assert time.process_time() - started < 2.0  # a parser let loose on these takes far longer; 50 ms in `make soak`


@pytest.mark.soak
def test_every_attack_is_refused_within_fifty_milliseconds():
    for text in [*ATTACKS, *LARGE.values()]:
        started = time.perf_counter()
        with pytest.raises(InvalidLoss):
            declare(text)
        assert time.perf_counter() - started < 0.05, text[:50]


PIECES = [
    *FUNCTIONS,
    *("r", "r_hat", "b_u", "theta", "0", "1", "2.5", "1e9", "1e-30", "16", ".5", "low", "high", "delta"),
    *("+", "-", "*", "/", "**", "(", ")", ",", "<", "<=", "==", "and", "or", "not", "in", "is", "if", "else"),
    *("lambda", "[", "]", "{", "}", ".", ":", "=", ":=", "'", '"', "\\", "\n", "\t", "\0", "#", "@", "~", "%", "__"),
    *("\uff52", "\u0131", "\ud800", "\u202e", "None", "True", "1j", "0x1f", "1_0", "await", "yield", "async", ";", "`"),
]


def random_text(rng):
    kind = rng.random()
    if kind < 0.3:
        return "".join(
            chr(rng.choice([rng.randrange(32, 127), rng.randrange(0x11000)])) for _ in range(rng.randrange(40))
        )
    if kind < 0.6:
        return rng.choice(["", " "]).join(rng.choice(PIECES) for _ in range(rng.randrange(1, 25)))
    return nearly_right(rng, rng.randrange(1, 6))


def nearly_right(rng, depth):
    """An expression that is mostly one of the language, so that what comes after the grammar is tried too."""
    if depth == 0 or rng.random() < 0.1:
        return rng.choice(
            ["r", "r_hat", "r_hat", "r_hat", "1", "0", "2.5", "-3", "1e-30", "1e29", "low", rng.choice(PIECES)]
        )
    a, b, c = (nearly_right(rng, depth - 1) for _ in range(3))
    function = rng.choice(list(FUNCTIONS))
    arguments = {1: a, 2: f"{a}, {b}", 3: f"{a} < {b}, {b}, {c}"}[FUNCTIONS[function]]
    return rng.choice([f"({a} {rng.choice(['+', '-', '*', '/'])} {b})", f"({a})**{rng.choice([2, 3, 0.5, -1, 16, 17])}"]
                      + [f"{function}({arguments})"] * 2)  # fmt: skip


def survive(seed, n):
    """Declares and derives n random texts; returns how many made sense. Anything but InvalidLoss comes through."""
    rng = random.Random(seed)
    n_valid, positions = 0, []
    for _ in range(n):
        text = random_text(rng)
        try:
            slope_statements(declare(text, rating_range=(0, 5)))
        except InvalidLoss as refused:
            positions.append((refused.position, len(text)))
        else:
            n_valid += 1
    assert all(0 <= position <= max(length, 1) for position, length in positions)
    return n_valid


def test_random_texts_are_understood_or_refused():
    assert survive(seed=1, n=1000) > 50


@pytest.mark.soak
def test_ten_thousand_random_texts_are_understood_or_refused():
    assert survive(seed=2, n=10_000) > 500


def test_the_refusal_says_where_what_and_what_instead():
    with pytest.raises(InvalidLoss) as refused:
        declare("(r - r_hat)**2 + sin(r)")
    assert (refused.value.text, refused.value.position) == ("(r - r_hat)**2 + sin(r)", 17)
    assert str(refused.value).startswith("the function sin is not known at character 18, at 'sin(r)'; there are abs,")


@pytest.mark.parametrize(
    "text", ["(r - r_hat)**2", " r_hat ", "+r_hat", "where(0 < r < 3 and r > r_hat or r == 5, r_hat, 0)"]
)
def test_what_is_arithmetic_is_taken(text):
    assert declare(text).error == text
