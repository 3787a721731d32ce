"""Requests that arrive while one group is processed form the next one."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from app.coalescer import Coalescer

EXECUTOR = ThreadPoolExecutor(1)


class Doubler:
    """Doubles numbers, and remembers the groups in which they came."""

    def __init__(self) -> None:
        self.groups: list[list[int]] = []

    def __call__(self, numbers: Sequence[int]) -> list[int]:
        self.groups.append(list(numbers))
        time.sleep(0.01)
        if 0 in numbers:
            raise ValueError("zero")
        return [2 * number for number in numbers]


def run(test: Callable[[Doubler], Coroutine[Any, Any, None]]) -> Doubler:
    doubler = Doubler()
    asyncio.run(test(doubler))
    return doubler


def test_requests_that_arrive_together_are_one_group():
    async def test(doubler: Doubler) -> None:
        coalescer = Coalescer(doubler, EXECUTOR)
        assert await asyncio.gather(*(coalescer.submit(n, n) for n in range(1, 5))) == [2, 4, 6, 8]

    assert run(test).groups == [[1, 2, 3, 4]]


def test_requests_that_arrive_while_a_group_is_processed_form_the_next_one():
    async def test(doubler: Doubler) -> None:
        coalescer = Coalescer(doubler, EXECUTOR)
        first = asyncio.create_task(coalescer.submit(1, 1))
        while not doubler.groups:
            await asyncio.sleep(0)
        assert await asyncio.gather(first, *(coalescer.submit(n, n) for n in (2, 3))) == [2, 4, 6]

    assert run(test).groups == [[1], [2, 3]]


def test_a_repeated_key_starts_the_next_group():
    async def test(doubler: Doubler) -> None:
        coalescer = Coalescer(doubler, EXECUTOR)
        assert await asyncio.gather(*(coalescer.submit("key", n) for n in (1, 2))) == [2, 4]

    assert run(test).groups == [[1], [2]]


def test_requests_with_equal_keys_are_one_request_if_results_are_shared():
    async def test(doubler: Doubler) -> None:
        coalescer = Coalescer(doubler, EXECUTOR, shares_results=True)
        assert await asyncio.gather(*(coalescer.submit(n, n) for n in (1, 2, 1))) == [2, 4, 2]

    assert run(test).groups == [[1, 2]]


def test_an_error_reaches_the_whole_group_and_no_other():
    async def test(doubler: Doubler) -> None:
        coalescer = Coalescer(doubler, EXECUTOR)
        results = await asyncio.gather(*(coalescer.submit(n, n) for n in (0, 1)), return_exceptions=True)
        assert [type(result) for result in results] == [ValueError, ValueError]
        assert await coalescer.submit(1, 1) == 2

    run(test)


def test_cancelling_one_request_does_not_affect_the_others():
    async def test(doubler: Doubler) -> None:
        coalescer = Coalescer(doubler, EXECUTOR)
        cancelled, other = (asyncio.create_task(coalescer.submit(n, n)) for n in (1, 2))
        await asyncio.sleep(0)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        assert await other == 4

    run(test)


def test_the_lock_is_held_while_a_group_is_processed():
    async def test(doubler: Doubler) -> None:
        lock = asyncio.Lock()
        coalescer = Coalescer(doubler, EXECUTOR, lock=lock)
        async with lock:
            waiting = asyncio.create_task(coalescer.submit(1, 1))
            await asyncio.sleep(0.02)
            assert not doubler.groups
        assert await waiting == 2

    run(test)
