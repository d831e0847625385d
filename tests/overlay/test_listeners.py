import os

import pytest
import trio

from overlay import listeners
from overlay.errors import AddressTaken
from overlay.listeners import listen, listen_near, port_of


async def test_a_listener_on_port_0_takes_a_free_port_and_accepts() -> None:
    listener = await listen("127.0.0.1", 0, what="tests")
    with trio.fail_after(60):
        async with listener, await trio.open_tcp_stream("127.0.0.1", port_of(listener)):
            await (await listener.accept()).aclose()


async def test_a_taken_port_is_named_with_what_it_was_for_and_who_has_it() -> None:
    async with await listen("127.0.0.1", 0, what="first") as first:
        port = port_of(first)
        with pytest.raises(AddressTaken, match=rf"second: .*{port}.*{os.getpid()}"):
            await listen("127.0.0.1", port, what="second")


@pytest.mark.parametrize("host", ["203.0.113.7", "no-such-name.invalid"])
async def test_an_address_that_is_not_this_machines_is_said_so(host: str) -> None:
    with trio.fail_after(30), pytest.raises(AddressTaken, match=f"{host}:0 for tests cannot"):
        await listen(host, 0, what="tests")


async def test_a_default_port_moves_on_and_a_given_one_never() -> None:
    async with await listen("127.0.0.1", 0, what="first") as first:
        port = port_of(first)
        async with await listen_near("127.0.0.1", port, what="x", exact=False) as moved:
            assert port < port_of(moved) < port + listeners.PORTS_TO_TRY
        with pytest.raises(AddressTaken):
            await listen_near("127.0.0.1", port, what="x", exact=True)


async def test_a_default_port_gives_up_after_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listeners, "PORTS_TO_TRY", 1)
    async with await listen("127.0.0.1", 0, what="first") as first:
        with pytest.raises(AddressTaken):
            await listen_near("127.0.0.1", port_of(first), what="x", exact=False)


async def test_the_search_for_a_port_ends_with_the_last_one() -> None:
    async with await listen("127.0.0.1", 65535, what="first"):
        with pytest.raises(AddressTaken):
            await listen_near("127.0.0.1", 65535, what="x", exact=False)
