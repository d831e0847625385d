"""Who may ask the API for what; the rule is pure, and a thin ASGI layer applies it.

Without a token only this machine's own programs are answered, and of the web pages that its browser
shows only the API's own: a page elsewhere could send requests here from the browser (cross-site),
or have its own name point to this machine (DNS rebinding). The first are told by `Origin` and
`Sec-Fetch-Site`, which a page cannot set; the second by `Host`, which then is the page's name.

With a token whoever has it may ask from anywhere. The page's files have no secrets and need none.
"""

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bench.lab.api.settings import is_loopback

MAX_BODY_BYTES = 2 * 1024 * 1024
"""Of any request; the largest thing that is sent is a packed custom client."""

SECURE = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; "
    "base-uri 'none'; form-action 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request is not answered, and what to do about it."""

    status: HTTPStatus
    reason: str


def refusal(headers: Mapping[str, str], client: str, *, token: str, in_api: bool) -> Refusal | None:
    """Return why a request is refused; None if it is not.

    Args:
        headers: the request's, by names in lower case.
        client: the address it came from; empty where it came over a Unix socket.
        token: what it must carry; empty if there is none.
        in_api: whether it is for the API, and not for one of the page's files.
    """
    refused = None if token else _from_here(headers, client)
    if refused is not None or not in_api:
        return refused
    return _of_this_site(headers) or _with_token(headers, token)


def _from_here(headers: Mapping[str, str], client: str) -> Refusal | None:
    if client and not is_loopback(client):
        return Refusal(
            HTTPStatus.FORBIDDEN, f"without a token this machine alone is answered, not {client}"
        )
    host = _host(headers.get("host", ""))
    if is_loopback(host):
        return None
    return Refusal(
        HTTPStatus.MISDIRECTED_REQUEST,
        f"Host is {host!r}; without a token the API is asked as localhost or 127.0.0.1",
    )


def _of_this_site(headers: Mapping[str, str]) -> Refusal | None:
    if headers.get("sec-fetch-site", "none") not in {"none", "same-origin"}:
        return Refusal(HTTPStatus.FORBIDDEN, "a web page of another site may not ask here")
    if "origin" in headers and _authority(headers["origin"]) != headers.get("host"):
        return Refusal(HTTPStatus.FORBIDDEN, f"{headers['origin']} may not ask here")
    return None


def _with_token(headers: Mapping[str, str], token: str) -> Refusal | None:
    if not token or _has(headers, token):
        return None
    return Refusal(HTTPStatus.UNAUTHORIZED, "send the API's token: Authorization: Bearer TOKEN")


def _authority(origin: str) -> str:
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""


def _host(header: str) -> str:
    """Return the name or address in a Host header, without port and brackets."""
    try:
        return urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return header


def _has(headers: Mapping[str, str], token: str) -> bool:
    kind, _, given = headers.get("authorization", "").partition(" ")
    # In constant time, so that how long it takes says nothing about how much of it was right.
    same = hmac.compare_digest(given.strip().encode(), token.encode())
    return kind.lower() == "bearer" and same


class Guard:
    """ASGI: answers what is refused, bounds bodies, and adds the fields that browsers obey.

    Args:
        app: what answers the rest.
        token: what requests must carry; empty if there is none.
    """

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request or the server's life; anything else, such as a WebSocket, is closed."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._serve(scope, receive, _secured(send))

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        refused = self._refusal(scope)
        if refused is not None:
            await _answer(refused)(scope, receive, send)
            return
        await self._app(scope, _bounded(receive), send)

    def _refusal(self, scope: Scope) -> Refusal | None:
        headers = Headers(scope=scope)
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > MAX_BODY_BYTES:
            return _TOO_LARGE
        return refusal(
            headers,
            (scope.get("client") or ("",))[0],
            token=self._token,
            in_api=scope["path"] == "/api" or scope["path"].startswith("/api/"),
        )


_TOO_LARGE = Refusal(
    HTTPStatus.CONTENT_TOO_LARGE
    if hasattr(HTTPStatus, "CONTENT_TOO_LARGE")
    else HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    f"the body is longer than {MAX_BODY_BYTES} bytes",
)


def _answer(refused: Refusal) -> JSONResponse:
    headers: dict[str, Any] = {}
    if refused.status is HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse({"detail": refused.reason}, refused.status, headers)


def _bounded(receive: Receive) -> Receive:
    left = MAX_BODY_BYTES

    async def bounded() -> Message:
        nonlocal left
        message = await receive()
        left -= len(message.get("body", b""))
        if left < 0:
            raise HTTPException(_TOO_LARGE.status, _TOO_LARGE.reason)
        return message

    return bounded


def _secured(send: Send) -> Send:
    async def secured(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in SECURE.items():
                headers.setdefault(name, value)
        await send(message)

    return secured
