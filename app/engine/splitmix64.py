"""Random numbers that are a function of a position alone: the same for every order and number of threads."""

from typing import Any

import numpy as np
from numba import njit, uint64

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
"""The step of a SplitMix64 stream."""
FIRST_MIX = np.uint64(0xBF58476D1CE4E5B9)
SECOND_MIX = np.uint64(0x94D049BB133111EB)


@njit(uint64(uint64), nogil=True, cache=True)
def mixed(number: Any) -> Any:
    """The finaliser of SplitMix64 (Steele, Lea & Flood 2014, figure 17): neighbouring numbers become unrelated ones."""
    number = (number ^ (number >> np.uint64(30))) * FIRST_MIX
    number = (number ^ (number >> np.uint64(27))) * SECOND_MIX
    return number ^ (number >> np.uint64(31))
