"""How many requests a key, or a client without one, may make in a while."""

from __future__ import annotations

import logging
import math
import time

import limits
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from limits.errors import StorageError
from limits.storage import storage_from_string

log = logging.getLogger(__name__)


class RateLimit:
    """`rate` is text such as `100/second` or `5000 per hour`; `store` is `memory://`, or the redis:// URL of a server.

    In memory each API process counts for itself. Both windows, this one and the one before, are weighed, so that
    there is no burst of twice the rate where one ends.
    """

    def __init__(self, rate: str, store: str) -> None:
        self._rate = limits.parse(rate)
        # Other stores name their own driver; this one would ask for another than the extra `palate[redis]` brings.
        driver = {"implementation": "redispy"} if store.startswith("redis") else {}
        storage = storage_from_string(f"async+{store}", wrap_exceptions=True, **driver)
        self._limiter = SlidingWindowCounterRateLimiter(storage)

    def __str__(self) -> str:
        return str(self._rate)

    async def wait_for(self, caller: str) -> int | None:
        """Count a request; None: it may pass, else the whole seconds after which the next one may.

        Without its store there is no limit: counting requests is not worth refusing them all.
        """
        try:
            if await self._limiter.hit(self._rate, caller):
                return None
            reset_at = (await self._limiter.get_window_stats(self._rate, caller)).reset_time
        except StorageError as error:
            log.warning("requests cannot be counted: %s", error.storage_error)
            return None
        return max(1, math.ceil(reset_at - time.time()))
