"""Limits on the long requests that one process answers at once."""

from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass

from fastapi import Request

from app.errors import NotReady


class ConcurrencyLimitReached(NotReady):
    """This process is already answering as many long requests of a kind as it may."""

    def __init__(self, kind: str, limit: int) -> None:
        super().__init__(f"{limit} {kind} are already in progress; try again when one has finished")
        self.kind = kind


@dataclass(frozen=True)
class ConcurrencyLimit:
    """A dependency that counts a request until it is answered, or its client is gone, and refuses it over the limit."""

    kind: str
    limit: int

    async def __call__(self, request: Request) -> AsyncIterator[None]:
        n_open: Counter[str] = request.app.state.n_long_requests
        if n_open[self.kind] >= self.limit:
            raise ConcurrencyLimitReached(self.kind, self.limit)
        n_open[self.kind] += 1
        try:
            yield
        finally:
            n_open[self.kind] -= 1
