from functools import partial

import pytest
import trio
import trio.testing

from overlay.http import BadResponse, Pool, ResponseHead, UpstreamConnection
from overlay.http.errors import MalformedBody
from overlay.http.testing import Lab, Wire

WHOLE = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.0 404 No\r\nContent-Length: 1\r\n\r\n?",
    b"HTTP/1.1 500 Oh\r\nConnection: close\r\nContent-Length: 1\r\n\r\n!",
    b"HTTP/1.1 204 None\r\n\r\n",
    b"HTTP/1.1 304 Same\r\nContent-Length: 9\r\n\r\n",
    b"HTTP/1.1 426 Up\r\nUpgrade: a\r\nContent-Length: 0\r\n\r\n",
]
IN_PARTS = [
    b"",
    b"HTTP/1.1 200 OK\r\nContent-Le",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok and more",
    b"HTTP/1.1 204 None\r\n\r\nmore",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 103 Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 101 Switching\r\nUpgrade: a\r\nConnection: upgrade\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n\r\nuntil it closes",
    b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nok",
    b"SSH-2.0-OpenSSH\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nX: " + bytes(64 * 1024) + b"\r\n\r\n",
]
"""What is no final answer with a known end, or is more or less than one, or none at all."""


def connected() -> UpstreamConnection:
    return UpstreamConnection(trio.testing.memory_stream_pair()[0])


def fed(
    connection: UpstreamConnection, parts: list[bytes], method: bytes
) -> tuple[ResponseHead | None, bytes, bool] | str:
    """Return what is made of an answer that comes in `parts`, or why nothing is."""
    head, body = None, b""
    try:
        for part in parts:
            if head is None:
                head = connection.take_head(part, method)
                body = b"" if head is None else connection.take_body()
            else:
                body += connection.take_body(part)
    except (BadResponse, MalformedBody) as exc:
        return exc.reason
    return head, body, connection.body.done


@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
@pytest.mark.parametrize("answer", WHOLE)
async def test_an_answer_in_one_piece_is_taken_for_what_it_is_in_many(
    answer: bytes, method: bytes
) -> None:
    if method == b"HEAD":
        answer = answer[: answer.index(b"\r\n\r\n") + 4]
    at_once, piecemeal = connected(), connected()
    whole = at_once.take_whole(answer, method)
    assert whole is not None
    head, body = whole
    pieces = [answer[n : n + 1] for n in range(len(answer))]
    assert (head, body, True) == fed(piecemeal, pieces, method)
    for connection in at_once, piecemeal:
        assert connection.body.done
        connection.finish(head)
    assert at_once.reusable == piecemeal.reusable == (b"close" not in answer and head.minor == 1)


@pytest.mark.parametrize("received", IN_PARTS)
async def test_what_is_no_answer_in_one_piece_is_left_as_it_is(received: bytes) -> None:
    asked, unasked = connected(), connected()
    assert asked.take_whole(received, b"GET") is None
    assert fed(asked, [received], b"GET") == fed(unasked, [received], b"GET")


async def test_an_answer_behind_an_interim_one_is_not_taken_for_the_first() -> None:
    connection = connected()
    connection.take_head(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 2", b"GET")
    assert connection.take_whole(WHOLE[0], b"GET") is None


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
