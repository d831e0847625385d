from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
import trio
from pydantic import BaseModel

from overlay.calls import MAX_KEPT_STREAMS, Answer, Caller, CallRefused, serve_calls
from overlay.errors import MalformedMessage, MyxoError, PeerUnreachable, ProtocolRefused
from overlay.framing import FramedStream
from overlay.host import Host, open_host
from overlay.identity import Identity
from overlay.names import PeerId

PROTOCOL = "/myxo/test/1.0.0"


class Ask(BaseModel):
    what: str
    number: int = 0


class Told(BaseModel):
    number: int


@dataclass
class Pair:
    caller: Caller
    client: Host
    server: Host

    async def ask(self, what: str, number: int = 0, *, timeout_s: float = 10.0) -> int:
        request = Ask(what=what, number=number)
        peer = self.server.peer_id
        return (await self.caller.call(peer, PROTOCOL, request, Told, timeout_s=timeout_s)).number

    @property
    def kept(self) -> int:
        return sum(map(len, self.caller._kept.values()))


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    async with paired() as made:
        yield made


@asynccontextmanager
async def paired() -> AsyncIterator[Pair]:
    with trio.fail_after(20):
        async with (
            open_host(Identity.generate(), ["/ip4/127.0.0.1/tcp/0"], psk=None) as server,
            open_host(Identity.generate(), [], psk=None) as client,
        ):
            serve_calls(server, PROTOCOL, Ask, answer)
            await client.connect(server.peer_id, server.listen_addresses()[0], timeout_s=5)
            yield Pair(Caller(client), client, server)


async def answer(_: PeerId, ask: Ask) -> Answer:
    match ask.what:
        case "double":
            return Told(number=2 * ask.number)
        case "count":
            return count(ask.number)
        case "refuse":
            raise CallRefused("no_room", "all is taken", {"free": 3})
        case "fail":
            raise MyxoError("the disk is full")
        case "hang":
            await trio.sleep_forever()
        case "nonsense":
            return Ask(what="this has no number that is one", number=1).model_copy(
                update={"number": "x"}
            )
    raise RuntimeError("a bug in the handler")


async def count(to: int) -> AsyncGenerator[BaseModel, None]:
    for number in range(to):
        yield Told(number=number)
    if to > 100:
        raise CallRefused("too_far", "that is enough")


async def test_a_call_is_answered_and_its_stream_kept_for_the_next(pair: Pair) -> None:
    for number in range(5):
        assert await pair.ask("double", number) == 2 * number
    assert pair.kept == 1


async def test_calls_at_once_do_not_wait_for_each_other_and_few_streams_are_kept(
    pair: Pair,
) -> None:
    got: list[int] = []

    async def ask(number: int) -> None:
        got.append(await pair.ask("double", number))

    async with trio.open_nursery() as nursery:
        for number in range(3 * MAX_KEPT_STREAMS):
            nursery.start_soon(ask, number)
    assert sorted(got) == [2 * n for n in range(3 * MAX_KEPT_STREAMS)]
    assert pair.kept == MAX_KEPT_STREAMS


async def test_a_handler_ends_when_its_caller_has_given_up(pair: Pair) -> None:
    begun, ended = trio.Event(), trio.Event()

    async def wait_forever(_: PeerId, __: Ask) -> Answer:
        begun.set()
        try:
            await trio.sleep_forever()
        finally:
            ended.set()
        raise AssertionError

    serve_calls(pair.server, PROTOCOL, Ask, wait_forever)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pair.ask, "hang")
        await begun.wait()
        assert not ended.is_set()
        nursery.cancel_scope.cancel()
    await ended.wait()


async def test_a_refusal_carries_code_text_and_details_and_keeps_the_stream(pair: Pair) -> None:
    with pytest.raises(CallRefused) as refused:
        await pair.ask("refuse")
    assert (refused.value.code, refused.value.text) == ("no_room", "all is taken")
    assert refused.value.details == {"free": 3}
    assert pair.kept == 1


async def test_every_other_error_for_a_caller_is_a_refusal_with_code_failed(pair: Pair) -> None:
    with pytest.raises(CallRefused, match="the disk is full") as refused:
        await pair.ask("fail")
    assert refused.value.code == "failed"


async def test_a_bug_in_the_handler_cuts_that_call_only(pair: Pair) -> None:
    with pytest.raises(PeerUnreachable):
        await pair.ask("bug")
    assert await pair.ask("double", 4) == 8


async def test_a_request_that_cannot_be_read_is_refused_as_malformed(pair: Pair) -> None:
    peer = pair.server.peer_id
    with pytest.raises(CallRefused, match="what") as refused:
        await pair.caller.call(peer, PROTOCOL, Told(number=1), Told, timeout_s=5)
    assert refused.value.code == "malformed"


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
async def test_an_answer_of_another_shape_is_malformed(pair: Pair) -> None:
    with pytest.raises(MalformedMessage):
        await pair.ask("nonsense")


@pytest.mark.parametrize("frame", [b"nonsense", b"[]", b'{"ok": 3}', b'{"error": {}}', b"\xff"])
async def test_bytes_that_are_no_answer_are_malformed(pair: Pair, frame: bytes) -> None:
    async def serve(_: PeerId, stream: FramedStream) -> None:
        await stream.receive()
        await stream.send(frame)

    pair.server.handle(PROTOCOL, serve)
    with pytest.raises(MalformedMessage):
        await pair.ask("double")


async def test_no_answer_in_time_is_an_unreachable_peer_and_the_stream_is_not_used_again(
    pair: Pair,
) -> None:
    with pytest.raises(PeerUnreachable, match="did not answer"):
        await pair.ask("hang", timeout_s=0.05)
    assert pair.kept == 0


async def test_a_protocol_that_the_peer_does_not_speak_is_said_so(pair: Pair) -> None:
    with pytest.raises(ProtocolRefused):
        await pair.caller.call(
            pair.server.peer_id, "/myxo/other/1.0.0", Ask(what=""), Told, timeout_s=5
        )


async def test_a_peer_that_is_not_connected_is_unreachable(pair: Pair) -> None:
    stranger = Identity.generate().peer_id
    with pytest.raises(PeerUnreachable):
        await pair.caller.call(stranger, PROTOCOL, Ask(what=""), Told, timeout_s=5)


async def test_kept_streams_of_a_lost_connection_are_replaced_in_the_next_call(
    pair: Pair,
) -> None:
    await pair.ask("double", 1)
    await pair.client.disconnect(pair.server.peer_id)
    await pair.client.connect(pair.server.peer_id, pair.server.listen_addresses()[0], timeout_s=5)
    assert await pair.ask("double", 2) == 4
    pair.caller.forget(pair.server.peer_id)
    assert pair.kept == 0


async def test_a_watch_yields_what_comes_until_the_peer_ends_it(pair: Pair) -> None:
    peer = pair.server.peer_id
    async with pair.caller.stream(peer, PROTOCOL, Ask(what="count", number=3), Told) as items:
        assert [item.number async for item in items] == [0, 1, 2]


async def test_a_watch_may_end_in_a_refusal(pair: Pair) -> None:
    peer = pair.server.peer_id
    async with pair.caller.stream(peer, PROTOCOL, Ask(what="count", number=101), Told) as items:
        for _ in range(101):
            await anext(items)
        with pytest.raises(CallRefused, match="enough"):
            await anext(items)


async def test_a_watch_that_is_left_early_leaves_the_peer_answering(pair: Pair) -> None:
    peer = pair.server.peer_id
    async with pair.caller.stream(peer, PROTOCOL, Ask(what="count", number=100), Told) as items:
        assert (await anext(items)).number == 0
    assert await pair.ask("double", 1) == 2
