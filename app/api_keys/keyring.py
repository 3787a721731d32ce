"""The API keys in the memory of a process, so that checking one costs no query, and the thread that refreshes them."""

from __future__ import annotations

import hmac
import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass

import anyio.to_thread
from sqlalchemy.exc import SQLAlchemyError

from app.api_keys import keys
from app.api_keys.keys import PREFIX_LENGTH, KeyRow
from app.db.engine import Database
from app.db.tables import utc_now
from app.periodic_thread import PeriodicThread

log = logging.getLogger(__name__)

REFRESH_EVERY = 1.0
"""Seconds until a key that another process revoked is refused here, if the database can be reached."""

MIN_LOOKUP_INTERVAL = 0.25
"""Minimum seconds between database look-ups of unknown keys, which may have been created just now."""

RECORD_EVERY = 60.0
"""Seconds between two updates of a key's last use."""


@dataclass(frozen=True, slots=True)
class ActiveKey:
    """A key that is not revoked, as the guard needs it."""

    id: int
    name: str
    prefix: str
    digest: str
    scopes: frozenset[str]
    expires_at: float
    """Unix time; infinite if it never expires."""

    @classmethod
    def of(cls, row: KeyRow) -> ActiveKey:
        expires_at = row.expires_at.timestamp() if row.expires_at else float("inf")
        return cls(row.id, row.name, row.prefix, row.digest, frozenset(row.scopes), expires_at)

    def allows(self, scope: str) -> bool:
        return scope in self.scopes or "admin" in self.scopes


class Keyring:
    """The active keys by prefix. Call `find` and `find_new` on the event loop; the rest on any thread."""

    def __init__(self, database: Database) -> None:
        self.is_needed = False
        """Whether requests need a key: one exists, or existed once."""
        self._database = database
        self._keys: Mapping[str, ActiveKey] = {}
        self._n_uses: dict[int, int] = {}  # written only by the event loop
        self._recorded: dict[int, tuple[int, float]] = {}  # only by the thread: uses recorded so far, and when
        self._last_lookup = 0.0
        self._refreshing = threading.Lock()  # an older reading must not replace a newer one
        self._thread = PeriodicThread(self._update, REFRESH_EVERY, "keyring")

    def start(self) -> None:
        """Read the keys now, and refresh them in the background from then on."""
        self.refresh()
        self._thread.start()

    def stop(self) -> None:
        self._thread.stop()
        self._record_uses(min_age=0.0)

    def find(self, token: str) -> ActiveKey | None:
        """The active key with this token, expired or not. The comparison takes constant time."""
        key = self._keys.get(token[:PREFIX_LENGTH])
        if key is None or not hmac.compare_digest(keys.digest_of(token), key.digest):
            return None
        self._n_uses[key.id] = self._n_uses.get(key.id, 0) + 1
        return key

    async def find_new(self, token: str) -> ActiveKey | None:
        """As `find`, for an unknown token: another process may have just created it."""
        now = time.monotonic()
        if now - self._last_lookup < MIN_LOOKUP_INTERVAL:
            return None
        self._last_lookup = now
        await anyio.to_thread.run_sync(self._try_to_refresh)
        return self.find(token)

    def refresh(self) -> None:
        """Read the active keys; raises the errors of the database."""
        with self._refreshing:
            with self._database.read() as connection:
                active = {row.prefix: ActiveKey.of(row) for row in keys.active(connection)}
                is_any = bool(active) or keys.is_any(connection)
            self._keys = active
            self.is_needed = is_any

    def _update(self) -> None:
        self._try_to_refresh()
        self._record_uses(RECORD_EVERY)

    def _try_to_refresh(self) -> None:
        """While the database is unreachable, the known keys stay valid."""
        try:
            self.refresh()
        except SQLAlchemyError as error:
            log.warning("the API keys cannot be read: %s", type(error).__name__)

    def _record_uses(self, min_age: float) -> None:
        """Store the last use of keys used since it was last stored, if that was at least `min_age` seconds ago."""
        now = time.monotonic()
        used = []
        for key_id, n_uses in list(self._n_uses.items()):
            n_recorded, recorded_at = self._recorded.get(key_id, (0, float("-inf")))
            if n_uses > n_recorded and now - recorded_at >= min_age:
                used.append(key_id)
        if not used:
            return
        try:
            with self._database.write() as connection:
                keys.record_uses(connection, used, utc_now())
        except SQLAlchemyError as error:
            log.warning("the last use of API keys cannot be recorded: %s", type(error).__name__)
            return
        names = {key.id: f"{key.name!r} ({key.prefix})" for key in self._keys.values()}
        for key_id in used:
            n_uses, (n_recorded, _) = self._n_uses[key_id], self._recorded.get(key_id, (0, 0.0))
            self._recorded[key_id] = n_uses, now
            log.info("API key %s: %d requests since its last log line", names.get(key_id, key_id), n_uses - n_recorded)
