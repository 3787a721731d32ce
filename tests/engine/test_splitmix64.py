import numpy as np

from app.engine.splitmix64 import GOLDEN, mixed


def test_the_stream_from_zero_is_the_published_one():
    """The first numbers of SplitMix64 with seed 0, as in Vigna's reference implementation."""
    with np.errstate(over="ignore"):
        numbers = [int(mixed(np.uint64(step) * GOLDEN)) for step in (1, 2, 3)]
    assert numbers == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
