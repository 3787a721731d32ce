"""The benchmarks' own reckoning, on invented numbers: no timing, no peers."""

import pytest

from benchmarks.machine_code import loops, multiply_adds
from benchmarks.training.our_side import block_bytes, tiny_ratings
from benchmarks.training.rounds import Rounds, alternate
from benchmarks.training.throughput import difference_rate
from benchmarks.training.time_to_error import libmf_choices

LOOP = """
entry:
.LBB0_1:
    vmulps (%rax), %zmm2, %zmm1
    vfmadd231ps 64(%rax), %zmm3, %zmm1
    vfmadd213ps %zmm4, %zmm5, %zmm6
    vmovaps %zmm6, (%rax)
    jne .LBB0_1
    vfmadd213ps %ymm4, %ymm5, %ymm6
    jmp .LBB0_9
.LBB0_9:
""".splitlines()


def test_a_disturbed_round_does_not_enter_the_median():
    rounds = Rounds({"theirs": [10.0, 1.0, 12.0], "ours": [50.0, 50.0, 48.0]}, others=[0.1, 2.0, 0.0])
    assert rounds.quiet == [0, 2]
    assert rounds.median("theirs") == 11.0
    assert rounds.ratio("ours", "theirs") == pytest.approx(4.5)
    assert rounds.note() == "2/3 quiet"


def test_rounds_without_a_quiet_one_all_count_and_say_so():
    rounds = Rounds({"ours": [1.0, 2.0, 3.0]}, others=[1.5, 2.0, 3.0])
    assert rounds.median("ours") == 2.0
    assert rounds.note() == "contended (2.0)"


def test_contenders_take_turns_in_alternating_order():
    order = []
    alternate({name: lambda name=name: order.append(name) or 1.0 for name in "ab"}, 3)
    assert "".join(order) == "abbaab"


def test_the_rate_of_a_peer_is_that_of_the_iterations_between_two_fits():
    assert difference_rate({"seconds": [1.0, 3.0], "n_ratings": 1_000}, 10) == 5_000


def test_the_harder_target_is_the_fewest_iterations_hardly_above_the_lowest_error():
    curves = {"0.1 0.05": [0.9, 0.8003, 0.8002], "0.05 0.03": [0.95, 0.9, 0.85, 0.8]}
    assert libmf_choices(curves) == {"best": (0.05, 0.03, 4), "within 0.1 %": (0.1, 0.05, 2)}


def test_multiply_adds_are_told_apart_by_where_their_result_goes():
    (loop,) = loops(LOOP)
    kept, stored = multiply_adds(loop)
    assert (dict(kept), dict(stored)) == ({"zmm": 1}, {"zmm": 1})


@pytest.mark.parametrize("n_factors", [32, 64, 128])
def test_a_block_of_the_tiny_data_set_fits_the_first_level_cache(n_factors):
    assert block_bytes(tiny_ratings(n_factors, per_run=16), n_factors) <= 24 * 1024
