"""Requests that arrive while one group is processed form the next one."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest

from app.coalescer import Coalescer


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
        coalescer = Coalescer(doubler, "doubler")
        assert await asyncio.gather(*(coalescer.submit(n, n) for n in range(1, 5))) == [2, 4, 6, 8]

    assert run(test).groups == [[1, 2, 3, 4]]


def test_requests_that_arrive_while_a_group_is_processed_form_the_next_one():
    async def test(doubler: Doubler) -> None:
        coalescer = Coalescer(doubler, "doubler")
        first = asyncio.create_task(coalescer.submit(1, 1))
        while not doubler.groups:
            await asyncio.sleep(0)
        assert await asyncio.gather(first, *(coalescer.submit(n, n) for n in (2, 3))) == [2, 4, 6]

    assert run(test).groups == [[1], [2, 3]]


def test_a_repeated_key_starts_the_next_group():
    async def test(doubler: Doubler) -> None:
        coalescer = Coalescer(doubler, "doubler")
        assert await asyncio.gather(*(coalescer.submit("key", n) for n in (1, 2))) == [2, 4]

    assert run(test).groups == [[1], [2]]


def test_requests_with_equal_keys_are_one_request_if_results_are_shared():
    async def test(doubler: Doubler) -> None:
        coalescer = Coalescer(doubler, "doubler", shares_results=True)
        assert await asyncio.gather(*(coalescer.submit(n, n) for n in (1, 2, 1))) == [2, 4, 2]

    assert run(test).groups == [[1, 2]]


def test_an_error_reaches_the_whole_group_and_no_other():
    async def test(doubler: Doubler) -> None:
        coalescer = Coalescer(doubler, "doubler")
        results = await asyncio.gather(*(coalescer.submit(n, n) for n in (0, 1)), return_exceptions=True)
        assert [type(result) for result in results] == [ValueError, ValueError]
        assert await coalescer.submit(1, 1) == 2

    run(test)


def test_cancelling_one_request_does_not_affect_the_others():
    async def test(doubler: Doubler) -> None:
        coalescer = Coalescer(doubler, "doubler")
        cancelled, other = (asyncio.create_task(coalescer.submit(n, n)) for n in (1, 2))
        await asyncio.sleep(0)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        assert await other == 4

    run(test)


def test_a_function_that_runs_alone_waits_for_the_group_and_the_next_group_waits_for_it():
    async def test(doubler: Doubler) -> None:
        coalescer = Coalescer(doubler, "doubler")
        first = asyncio.create_task(coalescer.submit(1, 1))
        while not doubler.groups:
            await asyncio.sleep(0)
        alone = asyncio.create_task(coalescer.run_alone(doubler, [5]))
        await asyncio.sleep(0)
        assert await asyncio.gather(first, alone, coalescer.submit(2, 2)) == [2, [10], 4]

    assert run(test).groups == [[1], [5], [2]]


def test_closing_ends_the_thread_after_what_it_is_processing():
    async def test(doubler: Doubler) -> None:
        coalescer = Coalescer(doubler, "doubler")
        pending = asyncio.create_task(coalescer.submit(1, 1))
        while not doubler.groups:
            await asyncio.sleep(0)
        coalescer.close()
        assert await pending == 2

    run(test)
