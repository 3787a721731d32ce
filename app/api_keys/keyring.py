"""The keys that this process knows, so that a check costs no query, and the thread that keeps them current."""

from __future__ import annotations

import hashlib
import hmac
import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import anyio.to_thread
from sqlalchemy.exc import SQLAlchemyError

from app.api_keys import keys
from app.api_keys.keys import PREFIX_LENGTH, KeyRow
from app.db.engine import Database

log = logging.getLogger(__name__)

REFRESH_EVERY = 1.0
"""Seconds until a key that was revoked elsewhere is refused here, as long as the database answers."""

LOOK_AGAIN_AFTER = 0.25
"""Seconds between looks at the database for a key that is not known, which may be a moment old."""

NOTE_EVERY = 60.0
"""Seconds between two notes of a key's last use."""


@dataclass(frozen=True, slots=True)
class HeldKey:
    """What the guard needs of a key in use."""

    id: int
    name: str
    prefix: str
    digest: str
    scopes: frozenset[str]
    expires_at: float
    """Seconds since 1970; infinite where it never does."""

    @classmethod
    def of(cls, row: KeyRow) -> HeldKey:
        expires_at = row.expires_at.timestamp() if row.expires_at else float("inf")
        return cls(row.id, row.name, row.prefix, row.digest, frozenset(row.scopes), expires_at)

    def allows(self, scope: str) -> bool:
        return scope in self.scopes or "admin" in self.scopes


class Keyring:
    """Keys in use, by what they are. `find` is for the event loop, all else for any thread."""

    def __init__(self, database: Database) -> None:
        self.is_needed = False
        """Whether requests need a key: there is one, or was."""
        self._database = database
        self._keys: Mapping[str, HeldKey] = {}
        self._n_uses: dict[int, int] = {}  # written by the event loop alone
        self._noted: dict[int, tuple[int, float]] = {}  # by the thread alone: uses that are noted, and when
        self._looked_at = 0.0
        self._refreshing = threading.Lock()  # an older reading must not replace a newer one
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Read the keys now, and follow them from then on."""
        self.refresh()
        self._thread = threading.Thread(target=self._follow, name="keyring", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread:
            self._thread.join()
            self._thread = None
        self._tend(patience=0.0)

    def find(self, token: str) -> HeldKey | None:
        """The key in use that `token` is, expired or not. The comparison takes as long whatever it finds."""
        key = self._keys.get(token[:PREFIX_LENGTH])
        digest = hashlib.sha256(token.encode()).hexdigest()
        if key is None or not hmac.compare_digest(digest, key.digest):
            return None
        self._n_uses[key.id] = self._n_uses.get(key.id, 0) + 1
        return key

    async def find_new(self, token: str) -> HeldKey | None:
        """As `find`, for a token that is not known: another process may have made it this moment."""
        now = time.monotonic()
        if now - self._looked_at < LOOK_AGAIN_AFTER:
            return None
        self._looked_at = now
        await anyio.to_thread.run_sync(self._try_to_refresh)
        return self.find(token)

    def refresh(self) -> None:
        """Read the keys in use; raises what the database raises."""
        with self._refreshing:
            with self._database.read() as connection:
                held = {row.prefix: HeldKey.of(row) for row in keys.in_use(connection)}
                is_any = bool(held) or keys.is_any(connection)
            self._keys = held
            self.is_needed = is_any

    def _follow(self) -> None:
        while not self._stop.wait(REFRESH_EVERY):
            self._try_to_refresh()
            self._tend(NOTE_EVERY)

    def _try_to_refresh(self) -> None:
        """While the database is away, the keys that are known go on being good."""
        try:
            self.refresh()
        except SQLAlchemyError as error:
            log.warning("the API keys cannot be looked up: %s", type(error).__name__)

    def _tend(self, patience: float) -> None:
        """Note the last use of keys that were used since it was noted, `patience` seconds ago or more."""
        now = time.monotonic()
        used: dict[int, datetime] = {}
        for key_id, n_uses in list(self._n_uses.items()):
            n_noted, noted_at = self._noted.get(key_id, (0, float("-inf")))
            if n_uses > n_noted and now - noted_at >= patience:
                used[key_id] = datetime.now(UTC)
        if used:
            self._note(used, now)

    def _note(self, used: Mapping[int, datetime], now: float) -> None:
        try:
            with self._database.write() as connection:
                keys.note_uses(connection, used)
        except SQLAlchemyError as error:
            log.warning("the last use of API keys cannot be noted: %s", type(error).__name__)
            return
        names = {key.id: f"{key.name!r} ({key.prefix})" for key in self._keys.values()}
        for key_id in used:
            n_uses, (n_noted, _) = self._n_uses[key_id], self._noted.get(key_id, (0, 0.0))
            self._noted[key_id] = n_uses, now
            log.info("API key %s: %d requests since the last such line", names.get(key_id, key_id), n_uses - n_noted)
