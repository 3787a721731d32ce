"""Authorization: every request passes here before it reaches a route.

A path that is not listed here needs a key, so a new route is never public by accident.
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
from starlette._utils import get_route_path  # the path that routes match, without the prefix of a proxy
from starlette.types import ASGIApp, Receive, Scope, Send

from app.api_keys.keyring import ActiveKey, Keyring
from app.api_keys.keys import PREFIX_LENGTH, KeyScope
from app.api_keys.rate import RateLimit
from app.errors import respond
from app.http.openapi import amend_document, declare_on, operations_of
from app.settings import Settings

log = logging.getLogger(__name__)

_PUBLIC = {"/", "/healthz", "/readyz", "/openapi.json", "/docs", "/docs/oauth2-redirect", "/redoc"}
_PUBLIC_FOLDERS = ("/dashboard/", "/static-offline-docs/")
_ADMIN_PATHS = ("/v1/keys", "/v1/ratings/export")
_WRITE_PATHS = ("/v1/ratings", "/v1/users/", "/v1/items/")
_POST_QUERIES = {"/v1/recommendations", "/v1/recommendations/batch", "/v1/predictions", "/v1/items/similar"}
"""Queries with a body. With another method, the last path is an item with the id `similar`."""
_READ_METHODS = {"GET", "HEAD"}

_DESCRIPTION = """\
Create a key with `palate keys create` or `POST /v1/keys` and send it as `Authorization: Bearer plt_...`. Scopes: `read`
for recommendations and all other read access, `write` for ratings and items, `admin` for everything. Until the first
key exists, only requests from this machine are answered, without a key.
"""


def required_scope(method: str, path: str) -> KeyScope | None:
    """The scope that a request needs; None if it is public."""
    if path in _PUBLIC or path.startswith(_PUBLIC_FOLDERS):
        return None
    if path.startswith(_ADMIN_PATHS):
        return "admin"
    if method in _READ_METHODS or (method == "POST" and path in _POST_QUERIES):
        return "read"
    return "write" if path.startswith(_WRITE_PATHS) else "admin"


class Refused(Exception):
    """A request that is refused."""

    def __init__(self, status: HTTPStatus, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = headers


class Guard:
    """ASGI middleware that admits authorized requests; their key is in `scope["api_key"]` from then on.

    With `auth` = `off` every request is admitted; with `keys`, one whose key has the scope. Until the first key exists,
    requests from this machine are admitted, unless a page of another site sends them.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        limits = settings.limits
        self._is_off = settings.auth == "off"
        self._rate = RateLimit(limits.rate, limits.rate_store) if limits.rate else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path = get_route_path(scope)
            required = required_scope(scope["method"], path)
            if required is not None:
                try:
                    key = await self._admit(scope, path, required)
                    await self._count(f"key {key.id}" if key else f"client {_client(scope)}")
                except Refused as refused:
                    await respond(refused.status, refused.detail, refused.headers)(scope, receive, send)
                    return
        await self._app(scope, receive, send)

    async def _admit(self, scope: Scope, path: str, required: KeyScope) -> ActiveKey | None:
        if self._is_off:
            if path.startswith("/v1/keys"):  # keys that anyone could create now would still be valid under `keys`
                detail = "PALATE_AUTH=off: keys are not checked, and only the command `palate keys` creates them"
                raise Refused(HTTPStatus.FORBIDDEN, detail)
            return None
        keyring: Keyring = scope["app"].state.keyring
        if not keyring.is_needed:
            _require_local(scope)
            return None
        try:
            key = await _key_of(scope, keyring)
            _check_key(key, required)
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
            detail = f"too many requests: the limit is {self._rate}; try again in {seconds} s"
            raise Refused(HTTPStatus.TOO_MANY_REQUESTS, detail, {"Retry-After": str(seconds)})


async def _key_of(scope: Scope, keyring: Keyring) -> ActiveKey:
    header = _header(scope, b"authorization")
    if header is None:
        detail = "an API key is required: send `Authorization: Bearer plt_...`"
        raise Refused(HTTPStatus.UNAUTHORIZED, detail, {"WWW-Authenticate": "Bearer"})
    kind, _, token = header.decode("latin-1").partition(" ")
    if kind.lower() != "bearer":
        raise _invalid_token("the Authorization header must be `Bearer` followed by an API key")
    key = keyring.find(token) or await keyring.find_new(token)
    if key is None:
        is_well_formed = token.startswith("plt_") and len(token) > PREFIX_LENGTH and token.isprintable()
        which = f"API key {token[:PREFIX_LENGTH]}..." if is_well_formed else "the API key"
        raise _invalid_token(f"{which} is unknown or revoked")
    return key


def _check_key(key: ActiveKey, required: KeyScope) -> None:
    if key.expires_at <= time.time():
        raise _invalid_token(f"API key {key.prefix}... has expired")
    if not key.allows(required):
        detail = f"API key {key.prefix}... lacks the scope {required!r}"
        challenge = f'Bearer error="insufficient_scope", scope="{required}"'
        raise Refused(HTTPStatus.FORBIDDEN, detail, {"WWW-Authenticate": challenge})


def _invalid_token(detail: str) -> Refused:
    return Refused(HTTPStatus.UNAUTHORIZED, detail, {"WWW-Authenticate": 'Bearer error="invalid_token"'})


def _require_local(scope: Scope) -> None:
    """Until the first key exists, admit only this machine, and not pages of other sites in its browsers.

    Such a page could reach this address through its own host name (DNS rebinding), which the Host header shows, or send
    a form, which the Origin header shows.
    """
    client = scope.get("client")  # None: a Unix socket
    if client and not is_loopback(client[0]):
        detail = "there are no API keys yet, so only this machine is answered: create one with `palate keys create`"
        raise Refused(HTTPStatus.FORBIDDEN, detail)
    host = _header(scope, b"host")
    if host is not None and not _names_this_machine(host):
        detail = "there are no API keys yet, so only this machine is answered, as localhost or 127.0.0.1"
        raise Refused(HTTPStatus.FORBIDDEN, detail)
    origin = _header(scope, b"origin")
    if origin is not None and origin.partition(b"://")[2] != host:
        detail = "there are no API keys yet, so requests from pages of other sites are refused"
        raise Refused(HTTPStatus.FORBIDDEN, detail)


def _header(scope: Scope, name: bytes) -> bytes | None:
    return next((value for each, value in scope["headers"] if each == name), None)


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
    """Whether an address or host name is a loopback one, which no other machine can reach."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost"
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        return address.ipv4_mapped.is_loopback
    return address.is_loopback


def declare_keys(app: FastAPI, settings: Settings) -> None:
    """Add the required scopes and the error responses to the OpenAPI document."""
    if settings.auth == "off":
        return

    def amend(document: dict[str, Any]) -> None:
        schemes = document.setdefault("components", {}).setdefault("securitySchemes", {})
        schemes["api_key"] = {"type": "http", "scheme": "bearer", "description": _DESCRIPTION}
        for method, path, operation in operations_of(document):
            required = required_scope(method, path)
            operation["security"] = [{"api_key": [required]}] if required else []
            if required:
                declare_on(operation, HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.TOO_MANY_REQUESTS)

    amend_document(app, amend)
