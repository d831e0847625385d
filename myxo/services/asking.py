"""One request to a service, and what its answer means, whoever does the I/O."""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from myxo.services.codec import Codec
from myxo.services.errors import (
    AnswerLost,
    NoProxy,
    RequestFailed,
    Undecodable,
    Unencodable,
)
from myxo.services.proxy_address import ProxyAddress
from overlay.names import ServiceName, service_name

FIRST_ERROR = 300
"""An answer that sends the client elsewhere has no result either; it is not followed."""

OWN_SERVER = "myxo"
"""What the proxy's own answers have in `Server`."""

NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Proxies of this machine speak plain HTTP; reading authorities for each client takes 20 ms."""


@dataclass(frozen=True, slots=True)
class Target:
    """What is asked.

    Attributes:
        service: its name.
        path: what it is asked for, without the first slash, with the query.
    """

    service: ServiceName
    path: str

    def __str__(self) -> str:
        return f"{self.service}/{self.path}"

    def url(self, proxy: ProxyAddress) -> str:
        """Return where the proxy takes such requests."""
        return f"http://{proxy}/{self}"


def target_of(text: str) -> Target:
    """Return what `service/path` means.

    Raises:
        InvalidName: what is before the first slash is no service's name.
    """
    name, _, path = text.removeprefix("/").partition("/")
    return Target(service_name(name), path)


class Body(httpx.AsyncByteStream, httpx.SyncByteStream):
    """A request's body.

    What httpx makes of bytes is an asynchronous generator, which it leaves open where sending is
    cancelled; trio warns of such.
    """

    def __init__(self, data: bytes) -> None:
        self._pieces = iter([data] if data else [])

    def __iter__(self) -> Iterator[bytes]:
        return self._pieces

    def __aiter__(self) -> "Body":
        return self

    async def __anext__(self) -> bytes:
        for piece in self._pieces:
            return piece
        raise StopAsyncIteration


def request(target: Target, proxy: ProxyAddress, codec: Codec, value: Any) -> httpx.Request:
    """Return a POST of a value.

    Raises:
        Unencodable: the codec raised.
    """
    data = encoded(target, codec, value)
    headers = {
        "Host": str(proxy),
        "Content-Type": codec.content_type,
        "Content-Length": str(len(data)),
    }
    return httpx.Request("POST", target.url(proxy), headers=headers, stream=Body(data))


def request_without_value(target: Target, proxy: ProxyAddress) -> httpx.Request:
    """Return a GET."""
    return httpx.Request("GET", target.url(proxy))


def encoded(target: Target, codec: Codec, value: Any) -> bytes:
    """Return a request's body.

    Raises:
        Unencodable: the codec raised.
    """
    try:
        return codec.encode(value)
    except Exception as exc:
        kind = type(value).__qualname__
        raise Unencodable(f"a {kind} cannot be sent to {target}: {exc}") from exc


def decoded(target: Target, codec: Codec, response: httpx.Response) -> Any:
    """Return the value of a whole answer.

    Raises:
        RequestFailed: its status is an error's.
        Undecodable: the codec raised.
    """
    if response.status_code >= FIRST_ERROR:
        raise RequestFailed(
            str(target),
            response.status_code,
            response.content,
            retry_after_s=_seconds(response.headers.get("Retry-After")),
            by_network=response.headers.get("Server") == OWN_SERVER,
        )
    try:
        return codec.decode(response.content)
    except Exception as exc:
        kind = response.headers.get("Content-Type", "something without a type")
        raise Undecodable(
            f"{target} answered {kind}, which cannot be decoded: {exc}; "
            'codec="bytes" takes answers as they are'
        ) from exc


@contextmanager
def translated(target: Target, proxy: ProxyAddress) -> Iterator[None]:
    """For the block, raise what the HTTP client raises as what a caller can act on.

    Raises:
        NoProxy: no connection could be made.
        AnswerLost: it ended early.
        TimeoutError: the client's own bound is over.
    """
    try:
        yield
    except httpx.ConnectError as exc:
        raise NoProxy(
            f"no proxy answers at {proxy} ({exc}); start one with `myxo up` or "
            "`myxo join`, or name another with MYXO_PROXY"
        ) from exc
    except httpx.TimeoutException as exc:
        raise TimeoutError(f"{target} did not answer in time") from exc
    except httpx.TransportError as exc:
        text = str(exc) or type(exc).__name__
        raise AnswerLost(f"the connection ended before {target} had answered: {text}") from exc


def _seconds(retry_after: str | None) -> float | None:
    """Return what a Retry-After field says in seconds; one that has a date is left aside."""
    return float(retry_after) if retry_after and retry_after.isdecimal() else None
