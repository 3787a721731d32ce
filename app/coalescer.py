"""Requests that arrive while a group of requests is being processed form the next group."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, TypeVar

Request = TypeVar("Request")
Result = TypeVar("Result")
Output = TypeVar("Output")


class _Group(Generic[Request, Result]):
    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.index_of_key: dict[Hashable, int] = {}
        self.results: asyncio.Task[Sequence[Result]]


class Coalescer(Generic[Request, Result]):
    """Processes the requests of one event loop in groups, one group at a time.

    `process` runs in a thread of its own. It takes the requests of a group and returns a result for each, in the same
    order; if it raises, every request of the group raises. With `shares_results`, requests with equal keys are one
    request; without, no group contains a key twice, and a repeated key starts the next group.
    """

    def __init__(
        self,
        process: Callable[[Sequence[Request]], Sequence[Result]],
        thread_name: str,
        *,
        shares_results: bool = False,
    ) -> None:
        self._process = process
        self._thread = ThreadPoolExecutor(1, thread_name)  # takes half as long to reach as the shared threads
        self._shares_results = shares_results
        self._lock = asyncio.Lock()
        self._open: _Group[Request, Result] | None = None

    async def submit(self, key: Hashable, request: Request) -> Result:
        """The result of the request, once its group is processed. Cancelling one request does not affect the others."""
        group = self._open
        if group is None or (key in group.index_of_key and not self._shares_results):
            group = self._open = _Group()
            group.results = asyncio.create_task(self._run(group))
        index = group.index_of_key.setdefault(key, len(group.requests))
        if index == len(group.requests):
            group.requests.append(request)
        return (await asyncio.shield(group.results))[index]

    async def run_alone(self, function: Callable[..., Output], *arguments: Any) -> Output:
        """Call the function in the same thread, between two groups. Waiting callers occupy no thread."""
        async with self._lock:
            return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)

    def close(self) -> None:
        """End the thread once it has processed what it is processing."""
        self._thread.shutdown()

    async def _run(self, group: _Group[Request, Result]) -> Sequence[Result]:
        async with self._lock:
            n = 0
            while n < len(group.requests):  # requests that the server is reading right now still join
                n = len(group.requests)
                await asyncio.sleep(0)
            if self._open is group:
                self._open = None
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._process, group.requests)
