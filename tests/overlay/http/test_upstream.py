from functools import partial

import pytest
import trio
import trio.testing

from overlay.http import Pool, UpstreamConnection
from overlay.http.testing import Lab, Wire


async def one_request(connection: UpstreamConnection) -> None:
    await connection.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
    head = None
    while head is None:
        head = connection.take_head(await connection.receive() or b"", b"GET")
    connection.take_body()
    connection.finish(head)


async def ok(wire: Wire) -> None:
    while True:
        try:
            await wire.head()
        except EOFError:
            return
        await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")


async def test_a_finished_connection_is_lent_again_unless_a_fresh_one_is_asked_for(
    lab: Lab,
) -> None:
    pool = Pool(partial(lab.dial, await lab.upstream(ok)))
    async with pool.acquire() as first:
        assert not first.reused
        await one_request(first)
    async with pool.acquire() as second:
        assert second is first
        assert second.reused
        await one_request(second)
    async with pool.acquire(fresh=True) as third:
        assert third is not first
        assert pool.in_use == 1


async def test_a_connection_with_an_unfinished_exchange_is_closed(lab: Lab) -> None:
    ended = trio.Event()

    async def wait(wire: Wire) -> None:
        await wire.head()
        await wire.ended()
        ended.set()

    pool = Pool(partial(lab.dial, await lab.upstream(wait)))
    async with pool.acquire() as connection:
        await connection.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
    await ended.wait()
    assert pool.idle == 0


@pytest.mark.parametrize("unasked", [b"", b"HTTP/1.1 408 Late\r\n\r\n"])
async def test_what_the_server_closed_or_wrote_to_while_idle_is_not_lent_again(
    lab: Lab, unasked: bytes
) -> None:
    idle = trio.Event()
    touched = trio.Event()

    async def touch(wire: Wire) -> None:
        await wire.head()
        await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        await idle.wait()
        if unasked:
            await wire.send(unasked)
        else:
            await wire.stream.send_eof()
        touched.set()
        await wire.ended()

    pool = Pool(partial(lab.dial, await lab.upstream(touch)))
    async with pool.acquire() as first:
        await one_request(first)
    idle.set()
    await touched.wait()
    async with pool.acquire() as second:
        assert second is not first
        assert not second.reused


async def test_idle_connections_are_few_and_not_old(lab: Lab) -> None:
    pool = Pool(partial(lab.dial, await lab.upstream(ok)), max_idle=1, idle_timeout_s=0.0)
    async with pool.acquire() as first, pool.acquire() as second:
        await one_request(first)
        await one_request(second)
    assert pool.idle == 1
    await pool.sweep()
    assert pool.idle == 0


async def test_who_wants_more_than_may_be_open_waits_for_one_to_be_given_back(lab: Lab) -> None:
    pool = Pool(partial(lab.dial, await lab.upstream(ok)), max_open=2)
    done: list[int] = []

    async def use(number: int) -> None:
        async with pool.acquire() as connection:
            await one_request(connection)
            await trio.testing.wait_all_tasks_blocked()
            done.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(7):
            nursery.start_soon(use, number)
    assert sorted(done) == list(range(7))
    assert lab.accepted == 2
    assert pool.idle == 2


async def test_the_place_of_a_connection_that_cannot_be_kept_is_free_again(lab: Lab) -> None:
    pool = Pool(partial(lab.dial, await lab.upstream(ok)), max_open=1)
    for _ in range(3):
        async with pool.acquire() as connection:
            await connection.send(
                b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
            )  # and its answer is not read
    async with trio.open_nursery() as nursery, pool.acquire():
        waiting = trio.Event()

        async def wait() -> None:
            waiting.set()
            async with pool.acquire() as connection:
                await one_request(connection)

        nursery.start_soon(wait)
        await waiting.wait()
        await trio.testing.wait_all_tasks_blocked()
        assert lab.accepted == 4
    assert lab.accepted == 5


async def test_a_fresh_one_takes_the_place_of_an_idle_one(lab: Lab) -> None:
    pool = Pool(partial(lab.dial, await lab.upstream(ok)), max_open=1)
    async with pool.acquire() as first:
        await one_request(first)
    async with pool.acquire(fresh=True) as second:
        assert second is not first
        assert pool.idle == 0


async def test_failed_dials_take_no_place() -> None:
    tries = 0

    async def dial() -> trio.SocketStream:
        nonlocal tries
        tries += 1
        raise ConnectionRefusedError

    pool = Pool(dial, max_open=1)
    for _ in range(3):
        with pytest.raises(ConnectionRefusedError):
            await pool.take(fresh=False)
    assert tries == 3


async def test_a_closed_pool_keeps_nothing(lab: Lab) -> None:
    pool = Pool(partial(lab.dial, await lab.upstream(ok)))
    async with pool.acquire() as connection:
        await one_request(connection)
        await pool.aclose()
    assert pool.idle == 0


async def test_a_failed_dial_is_the_callers_and_leaves_no_trace() -> None:
    async def dial() -> trio.SocketStream:
        raise ConnectionRefusedError

    pool = Pool(dial)
    with pytest.raises(ConnectionRefusedError):
        async with pool.acquire():
            raise AssertionError
    assert pool.in_use == 0
