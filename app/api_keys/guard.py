"""Who may ask for what: every request passes here before any route sees it.

A path that is not listed here needs a key, so a new route is closed until somebody opens it.
"""

from __future__ import annotations

import ipaddress
import logging
import time
from collections.abc import Mapping
from functools import lru_cache
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from starlette._utils import get_route_path  # as the routes read it, behind a proxy's prefix too
from starlette.types import ASGIApp, Receive, Scope, Send

from app.api_keys.keyring import HeldKey, Keyring
from app.api_keys.keys import PREFIX_LENGTH, KeyScope
from app.api_keys.rate import RateLimit
from app.errors import respond
from app.http.openapi import amend_document, declare_on, operations_of
from app.settings import Settings

log = logging.getLogger(__name__)

_PUBLIC = {"/", "/healthz", "/readyz", "/openapi.json", "/docs", "/docs/oauth2-redirect", "/redoc"}
_PUBLIC_FOLDERS = ("/dashboard/", "/static-offline-docs/")
_ADMINS = ("/v1/keys", "/v1/ratings/export")
_WRITERS = ("/v1/ratings", "/v1/users/", "/v1/items/")
_QUESTIONS = {"/v1/recommendations", "/v1/recommendations/batch", "/v1/predictions", "/v1/items/similar"}
"""Asked by POST. With another method the last path is that of an item called `similar`."""
_LOOKING = {"GET", "HEAD"}

_DESCRIPTION = """\
`palate keys create` or `POST /v1/keys` makes a key; it is sent as `Authorization: Bearer plt_...`. Scopes: `read` for
recommendations and everything that is only looked at, `write` for ratings and items, `admin` for everything. As long as
there is no key, this machine is answered without one, and no other machine is.
"""


def scope_needed(method: str, path: str) -> KeyScope | None:
    """The scope that a request needs; None: anybody may ask."""
    if path in _PUBLIC or path.startswith(_PUBLIC_FOLDERS):
        return None
    if path.startswith(_ADMINS):
        return "admin"
    if method in _LOOKING or (method == "POST" and path in _QUESTIONS):
        return "read"
    return "write" if path.startswith(_WRITERS) else "admin"


class Refused(Exception):
    """A request that is not let in."""

    def __init__(self, status: HTTPStatus, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = headers


class Guard:
    """Lets in who may ask; the key stands in `scope["api_key"]` from then on.

    `off`: everybody. `keys`: who sends a key with the scope; as long as there never was one, whoever asks from this
    machine, and not through a page of another site.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        limits = settings.limits
        self._is_off = settings.auth == "off"
        self._rate = RateLimit(limits.rate, limits.rate_store) if limits.rate else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path = get_route_path(scope)
            needed = scope_needed(scope["method"], path)
            if needed is not None:
                try:
                    key = await self._admit(scope, path, needed)
                    await self._count(f"key {key.id}" if key else f"client {_client(scope)}")
                except Refused as refused:
                    await respond(refused.status, refused.detail, refused.headers)(scope, receive, send)
                    return
        await self._app(scope, receive, send)

    async def _admit(self, scope: Scope, path: str, needed: KeyScope) -> HeldKey | None:
        if self._is_off:
            _refuse_keys(path)
            return None
        keyring: Keyring = scope["app"].state.keyring
        if not keyring.is_needed:
            _refuse_strangers(scope)
            return None
        try:
            key = await _key_of(scope, keyring)
            _refuse_unfit(key, needed)
        except Refused as refused:
            log.warning("refused %s %r from %s: %s", scope["method"], scope["path"], _client(scope), refused)
            await self._count(f"client {_client(scope)}")
            raise
        scope["api_key"] = key
        return key

    async def _count(self, caller: str) -> None:
        if self._rate is None:
            return
        seconds = await self._rate.wait_for(caller)
        if seconds is not None:
            detail = f"too many requests: no more than {self._rate} are answered; try again in {seconds} s"
            raise Refused(HTTPStatus.TOO_MANY_REQUESTS, detail, {"Retry-After": str(seconds)})


async def _key_of(scope: Scope, keyring: Keyring) -> HeldKey:
    told = _header(scope, b"authorization")
    if told is None:
        detail = "this needs an API key: send `Authorization: Bearer plt_...`"
        raise Refused(HTTPStatus.UNAUTHORIZED, detail, {"WWW-Authenticate": "Bearer"})
    kind, _, token = told.decode("latin-1").partition(" ")
    if kind.lower() != "bearer":
        raise _not_valid("the Authorization header must be `Bearer` and an API key")
    key = keyring.find(token) or await keyring.find_new(token)
    if key is None:
        looks_like_one = token.startswith("plt_") and len(token) > PREFIX_LENGTH and token.isprintable()
        which = f"API key {token[:PREFIX_LENGTH]}..." if looks_like_one else "what was sent as API key"
        raise _not_valid(f"{which} is not known, or was revoked")
    return key


def _refuse_unfit(key: HeldKey, needed: KeyScope) -> None:
    if key.expires_at <= time.time():
        raise _not_valid(f"API key {key.prefix}... has expired")
    if not key.allows(needed):
        detail = f"API key {key.prefix}... has not the scope {needed!r} that this needs"
        challenge = f'Bearer error="insufficient_scope", scope="{needed}"'
        raise Refused(HTTPStatus.FORBIDDEN, detail, {"WWW-Authenticate": challenge})


def _not_valid(detail: str) -> Refused:
    return Refused(HTTPStatus.UNAUTHORIZED, detail, {"WWW-Authenticate": 'Bearer error="invalid_token"'})


def _refuse_keys(path: str) -> None:
    """Keys that anybody could make while the service is open would still open it when it is closed again."""
    if path.startswith("/v1/keys"):
        detail = "PALATE_AUTH=off: keys play no part here, and only the command `palate keys` makes them"
        raise Refused(HTTPStatus.FORBIDDEN, detail)


def _refuse_strangers(scope: Scope) -> None:
    """Without any key only this machine is answered, and not through pages of other sites in its browsers.

    Such a page could reach this address under a name of its own (DNS rebinding), which Host tells, or send a form
    here, which Origin tells.
    """
    client = scope.get("client")  # none: a socket of this machine's file system
    if client and not is_loopback(client[0]):
        detail = "there are no API keys yet, so only this machine is answered: `palate keys create` makes one"
        raise Refused(HTTPStatus.FORBIDDEN, detail)
    host = _header(scope, b"host")
    if host is not None and not _names_this_machine(host):
        detail = "there are no API keys yet, so only this machine is answered, by the name of localhost or 127.0.0.1"
        raise Refused(HTTPStatus.FORBIDDEN, detail)
    origin = _header(scope, b"origin")
    if origin is not None and origin.partition(b"://")[2] != host:
        raise Refused(HTTPStatus.FORBIDDEN, "there are no API keys yet, so pages of other sites are not answered")


def _header(scope: Scope, name: bytes) -> bytes | None:
    for each, value in scope["headers"]:
        if each == name:
            found: bytes = value
            return found
    return None


def _client(scope: Scope) -> str:
    client = scope.get("client")
    return client[0] if client else "this machine"


@lru_cache(maxsize=64)
def _names_this_machine(host: bytes) -> bool:
    name = host.decode("latin-1").lower()
    name = name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]
    return is_loopback(name) or name.endswith(".localhost")


@lru_cache(maxsize=1024)
def is_loopback(host: str) -> bool:
    """Whether an address or name is this machine's own, which no other machine can reach."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost"
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        return address.ipv4_mapped.is_loopback
    return address.is_loopback


def declare_keys(app: FastAPI, settings: Settings) -> None:
    """Say in the OpenAPI document which operation needs which scope, and how it refuses."""
    if settings.auth == "off":
        return

    def amend(document: dict[str, Any]) -> None:
        schemes = document.setdefault("components", {}).setdefault("securitySchemes", {})
        schemes["api_key"] = {"type": "http", "scheme": "bearer", "description": _DESCRIPTION}
        for method, path, operation in operations_of(document):
            needed = scope_needed(method, path)
            operation["security"] = [{"api_key": [needed]}] if needed else []
            if needed:
                declare_on(operation, HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.TOO_MANY_REQUESTS)

    amend_document(app, amend)
