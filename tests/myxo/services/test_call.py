"""Single requests to a service, and clients that have one as their base."""

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import trio

import myxo
from myxo.services.asking import target_of
from myxo.services.errors import AnswerLost, NoProxy, RequestFailed, Undecodable, Unencodable
from myxo.services.proxy_address import proxy_address
from myxo.services.testing import PATIENCE_S, Asked, Reply, Service
from overlay.testing_ports import free_port


def run_under_asyncio(
    use: Callable[[Service], Coroutine[Any, Any, None]], service: Service
) -> None:
    asyncio.run(use(service))


async def ask(service: Service) -> None:
    at = service.address
    assert await myxo.call("s/twice?x=1", [1, "ü"], proxy=at) == ["POST", "/s/twice?x=1", [1, "ü"]]
    assert await myxo.call("s", proxy=at) == ["GET", "/s/", None]
    with pytest.raises(RequestFailed, match="s/no answered 404: not here"):
        await myxo.call("s/no", 1, proxy=at)
    with pytest.raises(TimeoutError):
        await myxo.call("s/never", timeout=0.2, proxy=at)


async def keep_asking(service: Service) -> None:
    async with myxo.Client("s/base", proxy=service.address) as client:
        assert (await client.get("a")).json() == ["GET", "/s/base/a", None]
        assert (await client.post("a/b", json=3)).json() == ["POST", "/s/base/a/b", 3]
    assert service.connections == 1


def answer(asked: Asked) -> Reply:
    if asked.path == "/s/no":
        return 404, b"not here"
    if asked.path == "/s/never":
        asked.wait_until_gone()
        return None
    said = json.loads(asked.body) if asked.body else None
    return 200, json.dumps([asked.method, asked.path, said]).encode()


@pytest.mark.parametrize("use", [ask, keep_asking])
@pytest.mark.parametrize("run", [trio.run, run_under_asyncio])
def test_services_are_asked_under_trio_and_asyncio(
    service: Service,
    use: Callable[[Service], Coroutine[Any, Any, None]],
    run: Callable[[Callable[[Service], Coroutine[Any, Any, None]], Service], None],
) -> None:
    service.answer = answer
    run(use, service)


def test_services_are_asked_in_plain_code(service: Service) -> None:
    service.answer = answer
    assert myxo.call_sync("s/a", 1, proxy=service.address) == ["POST", "/s/a", 1]
    assert myxo.call_sync("s", proxy=service.address) == ["GET", "/s/", None]
    before = service.connections
    with myxo.SyncClient("s", proxy=service.address) as client:
        assert [client.get(path).json()[1] for path in ("x", "/y")] == ["/s/x", "/s/y"]
    assert service.connections == before + 1
    with pytest.raises(TimeoutError):
        myxo.call_sync("s/never", timeout=0.2, proxy=service.address)


def test_a_bound_that_the_network_kept_is_the_callers_own(service: Service) -> None:
    late = 504, b"not in time"
    service.answer = lambda _: (*late, {"Server": "myxo"})
    with pytest.raises(TimeoutError):
        myxo.call_sync("s", timeout=PATIENCE_S, proxy=service.address)
    with pytest.raises(RequestFailed):
        myxo.call_sync("s", proxy=service.address)  # the service's bound, and not the caller's
    service.answer = lambda _: late
    with pytest.raises(RequestFailed):
        myxo.call_sync("s", timeout=PATIENCE_S, proxy=service.address)


def test_a_bound_is_told_to_the_network(service: Service) -> None:
    service.answer = lambda asked: (200, asked.headers["X-Request-Timeout"].encode())
    assert myxo.call_sync("s", timeout=PATIENCE_S, proxy=service.address) == PATIENCE_S


def test_bytes_and_codecs_are_as_of_maps(service: Service) -> None:
    assert myxo.call_sync("s", b"\x00", codec="bytes", proxy=service.address) == b"\x00"
    assert myxo.call_sync("s", "a", codec=(str.encode, len), proxy=service.address) == 1


def test_what_brings_no_result_is_told_apart(service: Service) -> None:
    with pytest.raises(Unencodable, match="a set cannot be sent to s/"):
        myxo.call_sync("s", {1}, proxy=service.address)
    service.answer = lambda _: (200, b"<p>", {"Content-Type": "text/html"})
    with pytest.raises(Undecodable, match="s/ answered text/html, which cannot be decoded"):
        myxo.call_sync("s", 1, proxy=service.address)
    service.answer = lambda _: None
    with pytest.raises(AnswerLost):
        myxo.call_sync("s", 1, proxy=service.address)
    with pytest.raises(NoProxy):
        myxo.call_sync("s", 1, proxy=f"127.0.0.1:{free_port()}")


def test_the_proxy_is_the_one_that_is_named_first(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MYXO_PROXY", "PROXY_IP", "PROXY_PORT", "P2P_BOOTSTRAPS", "MYXO_BOOTSTRAPS"):
        monkeypatch.delenv(name, raising=False)
    assert str(proxy_address()) == "127.0.0.1:4200"
    monkeypatch.setenv("PROXY_IP", "172.17.0.1")
    monkeypatch.setenv("PROXY_PORT", "4201")
    assert str(proxy_address()) == "172.17.0.1:4201"
    monkeypatch.setenv("MYXO_PROXY", ":4202")
    assert str(proxy_address()) == "127.0.0.1:4202"
    assert str(proxy_address("[::1]:4203")) == "[::1]:4203"
    assert target_of("s/x").url(proxy_address("[::1]:4203")) == "http://[::1]:4203/s/x"
