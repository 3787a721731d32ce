"""Rate limit per API key, or per client address without a key."""

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

    In memory, each API process counts for itself. A sliding window (the current window and a weighted previous one)
    prevents bursts of twice the rate at the end of a window.
    """

    def __init__(self, rate: str, store: str) -> None:
        self._rate = limits.parse(rate)
        # For Redis, the default driver is not the one that the extra `palate[redis]` installs.
        driver = {"implementation": "redispy"} if store.startswith("redis") else {}
        storage = storage_from_string(f"async+{store}", wrap_exceptions=True, **driver)
        self._limiter = SlidingWindowCounterRateLimiter(storage)

    def __str__(self) -> str:
        return str(self._rate)

    async def wait_for(self, caller: str) -> int | None:
        """Count a request; None if it may pass, otherwise the seconds to wait, rounded up.

        While the store is unreachable there is no limit: refusing every request would be worse.
        """
        try:
            if await self._limiter.hit(self._rate, caller):
                return None
            reset_at = (await self._limiter.get_window_stats(self._rate, caller)).reset_time
        except StorageError as error:
            log.warning("rate limits are not enforced, because requests cannot be counted: %s", error.storage_error)
            return None
        return max(1, math.ceil(reset_at - time.time()))
