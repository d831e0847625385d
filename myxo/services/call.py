"""`myxo.call`: one value to a service, and its answer; `myxo.Client`: as many as one likes."""

from enum import Enum
from http import HTTPStatus
from typing import Any, Final

import anyio
import httpx

from myxo.services.asking import (
    NO_TLS,
    Target,
    decoded,
    request,
    request_without_value,
    target_of,
    translated,
)
from myxo.services.codec import Codec, CodecLike, codec_of
from myxo.services.errors import RequestFailed
from myxo.services.proxy_address import ProxyAddress, proxy_address


class _Nothing(Enum):
    NOTHING = 0


NOTHING: Final = _Nothing.NOTHING
"""What is asked with where no value is given."""


async def call(
    service: str,
    value: Any = NOTHING,
    *,
    codec: CodecLike = "json",
    timeout: float | None = None,
    proxy: str | None = None,
) -> Any:
    """Send a value to a service and return its answer, under trio or asyncio.

    The service is started if it runs nowhere. A value is sent by POST; without one it is a GET.

    Args:
        service: `"service"` or `"service/path"`.
        value: what is sent.
        codec: of value and answer: `json`, `bytes`, or two functions, from a value to bytes and
            back; a third value is the type of the first one's.
        timeout: seconds within which the answer must be there.
        proxy: the address of the proxy that is asked; else that of `MYXO_PROXY`, else this
            machine's.

    Raises:
        RequestFailed: the answer's status is an error's; it has `status` and `body`.
        TimeoutError: the answer was not there in time.
        AnswerLost: it was cut.
        NoProxy: there is none.
        Unencodable: the value cannot be sent.
        Undecodable: the answer is not of the codec.
        InvalidName: what is before the slash is no service's name.
    """
    target, its, at = target_of(service), codec_of(codec), proxy_address(proxy)
    asked = _request(target, at, its, value)
    with anyio.fail_after(timeout), translated(target, at):
        async with httpx.AsyncClient(timeout=None, trust_env=False, verify=NO_TLS) as client:  # noqa: S113  (above)
            return decoded(target, its, await client.send(asked))


def call_sync(
    service: str,
    value: Any = NOTHING,
    *,
    codec: CodecLike = "json",
    timeout: float | None = None,
    proxy: str | None = None,
) -> Any:
    """Send a value to a service as `call` does, and wait for its answer.

    Args:
        service: as of `call`.
        value: as of `call`.
        codec: as of `call`.
        timeout: seconds for which nothing may come; the network is told of it as the bound for
            the whole answer.
        proxy: as of `call`.
    """
    target, its, at = target_of(service), codec_of(codec), proxy_address(proxy)
    asked = _request(target, at, its, value)
    if timeout is not None:
        asked.headers["X-Request-Timeout"] = f"{timeout:.3f}"
        asked.extensions["timeout"] = httpx.Timeout(timeout).as_dict()
    with (
        translated(target, at),
        httpx.Client(timeout=None, trust_env=False, verify=NO_TLS) as client,  # noqa: S113  (above)
    ):
        answer = client.send(asked)
    try:
        return decoded(target, its, answer)
    except RequestFailed as exc:
        if timeout is not None and exc.by_network and exc.status == HTTPStatus.GATEWAY_TIMEOUT:
            raise TimeoutError(f"{target} did not answer in time") from exc
        raise


def _request(target: Target, proxy: ProxyAddress, codec: Codec, value: Any) -> httpx.Request:
    if value is NOTHING:
        return request_without_value(target, proxy)
    return request(target, proxy, codec, value)


class Client(httpx.AsyncClient):
    """httpx's client with a service as its base: kept connections, under trio or asyncio.

    `async with myxo.Client("shop") as shop: (await shop.get("items")).json()`

    Args:
        service: `"service"` or `"service/path"`; paths of requests go below it.
        proxy: as of `call`.
        settings: of `httpx.AsyncClient`; there is no timeout unless one is named.
    """

    def __init__(self, service: str, *, proxy: str | None = None, **settings: Any) -> None:
        super().__init__(**_settings(service, proxy, settings))


class SyncClient(httpx.Client):
    """The same for plain code.

    Args:
        service: as of `Client`.
        proxy: as of `Client`.
        settings: of `httpx.Client`; there is no timeout unless one is named.
    """

    def __init__(self, service: str, *, proxy: str | None = None, **settings: Any) -> None:
        super().__init__(**_settings(service, proxy, settings))


def _settings(service: str, proxy: str | None, settings: dict[str, Any]) -> dict[str, Any]:
    base = target_of(service).url(proxy_address(proxy))
    own = {"base_url": base, "timeout": None, "trust_env": False, "verify": NO_TLS}
    return own | settings
