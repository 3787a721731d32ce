"""How many long requests of a kind one process answers at once."""

from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass

from fastapi import Request

from app.errors import NotReady


class NoPlaceLeft(NotReady):
    """As many long requests of a kind are under way in this process as may be."""

    def __init__(self, what: str, most: int) -> None:
        super().__init__(f"{most} {what} are under way already; try again when one of them is over")
        self.what = what


@dataclass(frozen=True)
class Places:
    """Places of long requests: each takes one, and gives it back when it is answered or its client has gone."""

    what: str
    most: int

    async def __call__(self, request: Request) -> AsyncIterator[None]:
        n_taken: Counter[str] = request.app.state.n_places_taken
        if n_taken[self.what] >= self.most:
            raise NoPlaceLeft(self.what, self.most)
        n_taken[self.what] += 1
        try:
            yield
        finally:
            n_taken[self.what] -= 1
