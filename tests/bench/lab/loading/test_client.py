import itertools
import time
from collections.abc import Sequence

import pytest
import trio

from bench.lab.errors import BadInput, LoadFailed
from bench.lab.loading.client import open_client
from bench.lab.loading.messages import Message, message
from bench.lab.loading.sender import QUEUE_FULL, TIMED_OUT, Limits
from bench.lab.loading.target import target_of
from bench.lab.request_trace import FAILED, RequestTrace
from overlay.testing_ports import free_port
from tests.bench.lab.loading.conftest import Answering

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Myxo-Instance: abc\r\n\r\nok"


class Kept:
    """A sink that keeps everything."""

    def __init__(self) -> None:
        self.traces: list[RequestTrace] = []

    async def write(self, traces: Sequence[RequestTrace]) -> None:
        self.traces += traces


async def answer_all(stream: trio.SocketStream) -> None:
    while await stream.receive_some():
        await stream.send_all(ANSWER)


async def test_so_many_requests_are_sent_and_answered(fast_url: str) -> None:
    async with open_client(target_of(fast_url)) as client:
        await client.request(300, 0.001)
    tally = client.tally
    assert (tally.asked, tally.sent, tally.answered, tally.failed) == (300, 300, 300, 0)
    assert tally.statuses == {200: 300}
    assert tally.intended.count == tally.service.count == 300


async def test_requests_go_out_when_they_are_due(fast_url: str) -> None:
    kept, times = Kept(), [0.0, 0.05, 0.0501, 0.2]
    async with open_client(target_of(fast_url), sink=kept) as client:
        began = time.time()
        await client.run(iter(times))
    created = [trace.created - kept.traces[0].created for trace in kept.traces]
    assert created == pytest.approx(times, abs=1e-5)
    assert kept.traces[0].created == pytest.approx(began, abs=0.05)
    for trace in kept.traces:
        assert trace.created <= trace.sent <= trace.done


async def test_a_rate_is_changed_while_requests_go_out(fast_url: str) -> None:
    kept = Kept()
    async with open_client(target_of(fast_url), sink=kept) as client:
        tally = client.tally
        for rate, count in ((1000, 100), (100, 10)):
            before, began = tally.asked, time.monotonic()
            client.set_rate(rate)
            assert client.rate == rate
            while tally.asked - before < count:
                await trio.lowlevel.checkpoint()
            client.set_rate(0)
            assert tally.asked - before <= rate * (time.monotonic() - began) + 1
            stopped = tally.asked
            await trio.sleep(0.05)
            assert tally.asked == stopped
    created = sorted(trace.created for trace in kept.traces)
    gaps = [later - before for before, later in itertools.pairwise(created)]
    assert gaps[:99] == pytest.approx([0.001] * 99, abs=1e-5)
    assert gaps[-9:] == pytest.approx([0.01] * 9, abs=1e-5)


async def test_a_closed_loop_sends_each_when_the_one_before_is_answered(fast_url: str) -> None:
    kept = Kept()
    async with open_client(target_of(fast_url), sink=kept) as client:
        await client.request(50)
    assert client.tally.answered == 50
    for before, after in zip(kept.traces, kept.traces[1:], strict=False):
        assert after.sent >= before.done


async def test_requests_without_a_count_end_with_the_rate(fast_url: str) -> None:
    async with open_client(target_of(fast_url)) as client, trio.open_nursery() as nursery:
        nursery.start_soon(client.request, None, 0.001)
        nursery.start_soon(client.request, None, None)
        await client.request(50, 0.001)
        client.set_rate(0)
    assert client.tally.answered == client.tally.asked


async def test_a_stall_is_charged_to_all_that_were_due_meanwhile(answering: Answering) -> None:
    async def stall(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await trio.sleep(0.2)
        await stream.send_all(ANSWER)
        await answer_all(stream)

    target = await answering(stall)
    async with open_client(target, limits=Limits(connections=1)) as client:
        await client.request(100, 0.001)
    assert client.tally.intended.quantile(50) > 0.1
    assert client.tally.service.quantile(50) < 0.1
    assert client.tally.answered == 100


async def test_answers_that_stay_out_do_not_stop_the_requests(answering: Answering) -> None:
    heard = 0

    async def silent(stream: trio.SocketStream) -> None:
        nonlocal heard
        while data := await stream.receive_some():
            heard += data.count(b"GET ")

    target = await answering(silent)
    limits = Limits(timeout_s=0.3)
    async with open_client(target, limits=limits) as client:
        await client.request(50, 0.001)
    assert heard == 50
    assert client.tally.reasons == {TIMED_OUT: 50}
    assert client.tally.intended.count == 50


async def test_what_there_is_no_room_for_is_counted_and_not_hidden(answering: Answering) -> None:
    async def silent(stream: trio.SocketStream) -> None:
        await trio.sleep(0.3)

    kept = Kept()
    limits = Limits(connections=2, queue=3)
    async with open_client(await answering(silent), limits=limits, sink=kept) as client:
        await client.request(20, 0.001)
    tally = client.tally
    assert tally.reasons[QUEUE_FULL] == 15
    assert tally.asked == 20 == tally.sent + tally.unsent
    assert len(kept.traces) == 20
    assert {trace.status for trace in kept.traces} == {FAILED}


async def test_where_nobody_listens_every_request_is_counted_as_not_sent() -> None:
    kept = Kept()
    target = target_of(f"http://127.0.0.1:{free_port()}/")
    async with open_client(target, sink=kept) as client:
        await client.request(10, 0.001)
    assert (client.tally.unsent, client.tally.sent) == (10, 0)
    assert client.tally.reasons == {"Connection refused": 10}
    assert len(kept.traces) == 10


async def test_a_connection_that_breaks_fails_its_request_and_no_other(
    answering: Answering,
) -> None:
    connections = 0

    async def first_one_breaks(stream: trio.SocketStream) -> None:
        nonlocal connections
        connections += 1
        if connections == 1:
            await stream.receive_some()
        else:
            await answer_all(stream)

    async with open_client(await answering(first_one_breaks)) as client:
        await client.request(5)
    assert (client.tally.failed, client.tally.answered) == (1, 4)


async def test_a_connection_that_is_said_to_end_is_not_used_again(answering: Answering) -> None:
    connections = 0

    async def once(stream: trio.SocketStream) -> None:
        nonlocal connections
        connections += 1
        await stream.receive_some()
        await stream.send_all(ANSWER.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))

    async with open_client(await answering(once)) as client:
        await client.request(5)
    assert client.tally.answered == 5
    assert connections == 5


async def test_an_idle_connection_that_the_server_ends_is_replaced(answering: Answering) -> None:
    async def twice(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(ANSWER)

    async with open_client(await answering(twice)) as client:
        await client.run(iter([0.0, 0.05, 0.1]))
    assert client.tally.answered == 3


async def test_a_large_body_is_sent_whole(answering: Answering) -> None:
    size, heard = 5_000_000, 0

    async def take(stream: trio.SocketStream) -> None:
        nonlocal heard
        while heard < size:
            heard += len(await stream.receive_some())
        await stream.send_all(ANSWER)

    target = await answering(take)
    large = message(target, "POST", "", {"content": bytes(size)})
    async with open_client(target, lambda: large) as client:
        await client.request(1)
    assert client.tally.answered == 1
    assert heard == len(large.data)


async def test_a_trace_says_who_answered_and_for_what(answering: Answering) -> None:
    kept, target = Kept(), await answering(answer_all)
    async with open_client(target, client_id="h:s:3", host="h", exp_id="e1", sink=kept) as client:
        await client.request(2)
    first, second = kept.traces
    assert (first.request_id, second.request_id) == ("h:s:3:1", "h:s:3:2")
    assert first[1:4] == ("h:s:3", target.name, "h")
    assert first[7:] == (200, "abc", "e1")


async def test_the_end_of_the_block_waits_for_what_is_under_way(answering: Answering) -> None:
    async def slow(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await trio.sleep(0.1)
        await stream.send_all(ANSWER)

    async with open_client(await answering(slow)) as client:
        client.set_rate(100)
        await trio.sleep(0.05)
    assert client.tally.asked == client.tally.answered > 0


async def test_a_block_that_is_left_by_an_error_gives_up_what_is_under_way(
    answering: Answering,
) -> None:
    async def silent(stream: trio.SocketStream) -> None:
        await trio.sleep_forever()

    kept = Kept()
    with pytest.RaisesGroup(ZeroDivisionError):
        async with open_client(await answering(silent), sink=kept) as client:
            client.set_rate(100)
            await trio.sleep(0.05)
            raise ZeroDivisionError
    assert len(kept.traces) == client.tally.asked > 0


async def test_what_next_message_raises_ends_the_client(fast_url: str) -> None:
    def wrong() -> Message:
        raise LoadFailed("no more")

    with pytest.RaisesGroup(pytest.RaisesExc(LoadFailed, match="no more")):
        async with open_client(target_of(fast_url), wrong) as client:
            await client.request(1)


async def test_an_unknown_name_is_told() -> None:
    with pytest.raises(LoadFailed, match="is not known"):
        async with open_client(target_of("http://nowhere.invalid/")):
            pass


async def test_an_unknown_distribution_is_told(fast_url: str) -> None:
    with pytest.RaisesGroup(BadInput):
        async with open_client(target_of(fast_url)) as client:
            await client.request(1, ("poisson", 1.0))
