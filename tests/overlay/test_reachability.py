"""Hosts over loopback that ask each other where they are seen, and what they publish then."""

import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import pytest
import trio
import trio.testing

from overlay import reachability as reachability_module
from overlay.addresses import Address, is_hidden, parse_addresses
from overlay.connection import Connection, MuxedBytes
from overlay.errors import PeerUnreachable, StreamCut
from overlay.framing import FramedStream
from overlay.host import Host, open_host
from overlay.identity import Identity
from overlay.names import PeerId
from overlay.reachability import (
    DIAL_BACK_PROTOCOL,
    DIALS_AT_ONCE,
    MAX_PORTS,
    DialBack,
    DialBackReply,
    DialBackRequest,
    Finding,
    Reachability,
    Setting,
    conclude,
)
from overlay.relay import Relay

LOOPBACK = "/ip4/127.0.0.1/tcp/0"
NOWHERE = "/ip4/127.0.0.1/tcp/1"
TIMEOUT_S = 60.0
FAST_S = 30.0


@asynccontextmanager
async def opened(count: int) -> AsyncIterator[list[Host]]:
    with trio.fail_after(TIMEOUT_S):
        async with AsyncExitStack() as stack:
            yield [
                await stack.enter_async_context(
                    open_host(Identity.generate(), [LOOPBACK], psk=b"k" * 32)
                )
                for _ in range(count)
            ]


def port_of(host: Host) -> int:
    return int(host.listen_addresses()[0].rpartition("/")[2])


async def ask(asker: Host, helper: Host, *ports: int) -> DialBackReply:
    question = DialBackRequest(ports=ports).model_dump_json().encode()
    return DialBackReply.model_validate_json(await say(asker, helper, question) or b"")


async def say(asker: Host, helper: Host, question: bytes) -> bytes | None:
    await asker.connect(helper.peer_id, helper.listen_addresses()[0], timeout_s=FAST_S)
    async with await asker.open_stream(helper.peer_id, DIAL_BACK_PROTOCOL) as stream:
        await stream.send(question)
        answer = await stream.receive()
        await stream.finish()
    return answer


# Dialling back


async def test_the_ports_at_which_the_asker_itself_answers_are_told() -> None:
    async with opened(3) as (helper, asker, other):
        DialBack(helper)
        reply = await ask(asker, helper, port_of(asker), port_of(other), 1)
        assert reply.reached == (port_of(asker),)
        assert reply.tried
        assert reply.observed.startswith("/ip4/127.0.0.1/tcp/")


async def test_being_dialled_back_makes_no_connection() -> None:
    async with opened(2) as (helper, asker):
        DialBack(helper)
        await ask(asker, helper, port_of(asker))
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert len(asker._connections.of(helper.peer_id)) == 1
        assert len(helper._connections.of(asker.peer_id)) == 1


async def test_who_names_no_port_is_told_where_it_is_seen_and_nothing_is_dialled() -> None:
    async with opened(2) as (helper, asker):
        DialBack(helper)
        for _ in range(3):
            reply = await ask(asker, helper)
            assert reply.reached == ()
            assert reply.tried
        seen = parse_addresses([reply.observed])[0]
        (connection,) = helper._connections.of(asker.peer_id)
        assert connection.remote == (seen.host, seen.port)


async def test_nothing_but_the_askers_own_address_can_be_asked_for() -> None:
    async with opened(2) as (helper, asker):
        DialBack(helper)
        dialled: list[Address] = []

        async def note(_: PeerId, target: Address) -> bool:
            dialled.append(target)
            return False

        helper.answers_at = note  # type: ignore[method-assign, assignment]  # what it would dial is the point
        question = json.dumps({"ports": [7], "addresses": ["/ip4/192.0.2.1/tcp/7"]})
        await say(asker, helper, question.encode())
        assert dialled == [Address("ip4", "127.0.0.1", 7)]


@pytest.mark.parametrize(
    "question", [b"{", b'{"ports": [0]}', json.dumps({"ports": [1] * (MAX_PORTS + 1)}).encode()]
)
async def test_a_question_that_makes_no_sense_is_not_answered(question: bytes) -> None:
    async with opened(2) as (helper, asker):
        DialBack(helper)
        with pytest.raises(StreamCut):
            await say(asker, helper, question)
        assert (await ask(asker, helper, port_of(asker))).reached


async def test_who_asks_again_at_once_is_told_to_come_back_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with opened(2) as (helper, asker):
        DialBack(helper)
        assert (await ask(asker, helper, port_of(asker))).tried
        again = await ask(asker, helper, port_of(asker))
        assert (again.tried, again.reached) == (False, ())
        monkeypatch.setattr(reachability_module, "DIAL_EVERY_S", 0.0)
        assert (await ask(asker, helper, port_of(asker))).tried


async def test_no_more_than_some_are_dialled_back_at_once() -> None:
    async with opened(DIALS_AT_ONCE + 2) as (helper, *askers):
        DialBack(helper)
        busy, go_on = 0, trio.Event()

        async def wait(_: PeerId, __: Address) -> bool:
            nonlocal busy
            busy += 1
            await go_on.wait()
            return True

        helper.answers_at = wait  # type: ignore[method-assign, assignment]  # holds the dials open
        replies: list[DialBackReply] = []

        async def one(asker: Host) -> None:
            replies.append(await ask(asker, helper, 7))

        async with trio.open_nursery() as nursery:
            for asker in askers:
                nursery.start_soon(one, asker)
            while not replies:
                await trio.testing.wait_all_tasks_blocked(0.01)
            assert busy == DIALS_AT_ONCE
            go_on.set()
        assert sorted(reply.tried for reply in replies) == [False] + [True] * DIALS_AT_ONCE


# What answers mean

INSIDE = [Address("ip4", "192.168.1.2", 4003)]


def seen(observed: str = "192.168.1.2", *reached: int, tried: bool = True) -> DialBackReply:
    address = observed if observed.startswith("/") else f"/ip4/{observed}/tcp/50000"
    return DialBackReply(observed=address, reached=reached, tried=tried)


@pytest.mark.parametrize(
    ("replies", "meaning"),
    [
        ([], None),
        ([seen(tried=False)], None),
        ([seen("nonsense of no use", 4003)], None),
        ([seen("/dns/example.org/tcp/4003", 4003)], None),
        ([seen("192.168.1.2", 4003)], Finding(True)),
        ([seen("192.168.1.2")], Finding(False)),
        ([seen("203.0.113.7")], Finding(False)),
        ([seen("203.0.113.7", 4003)], Finding(True, (Address("ip4", "203.0.113.7", 4003),))),
        ([seen("192.168.1.2", 4003), seen("203.0.113.7")], Finding(False)),
        ([seen("192.168.1.2", 4003), seen("192.168.1.2", 4003), seen()], Finding(True)),
        ([seen("192.168.1.2", 4003), seen(tried=False)], Finding(True)),
    ],
)
def test_the_most_decide_and_a_draw_is_for_hiding(
    replies: list[DialBackReply], meaning: Finding | None
) -> None:
    assert conclude(INSIDE, replies) == meaning


# What is published


@dataclass
class Peer:
    """A host, what it believes of itself, and what it publishes."""

    host: Host
    published: tuple[str, ...]
    reachability: Reachability = field(init=False)
    changes: list[tuple[str, ...]] = field(default_factory=list)
    _news: trio.Event = field(default_factory=trio.Event)

    def changed(self, addresses: tuple[str, ...]) -> None:
        self.published = addresses
        self.changes.append(addresses)
        self._news.set()
        self._news = trio.Event()

    async def publishes(self, wanted: Callable[[tuple[str, ...]], bool]) -> None:
        while not wanted(self.published):
            await self._news.wait()


async def nothing_beside(_: Connection) -> None:
    pass


@asynccontextmanager
async def peer_with(
    own: Sequence[str], setting: Setting = "auto", helpers: int = 1
) -> AsyncIterator[tuple[Peer, list[Host], Host]]:
    """Yield a peer that believes its addresses to be `own`, its helpers, and somebody else."""
    async with opened(helpers + 2) as (host, other, *others):
        for helper in others:
            Relay(helper, helper.listen_addresses, time.time)
            DialBack(helper)
        own = [one.replace("PORT", str(port_of(host))) for one in own]
        peer = Peer(host, tuple(own))
        peer.reachability = Reachability(
            host,
            own,
            setting,
            helpers=lambda: [helper.peer_id for helper in others],
            connect=connector(host, others),
            changed=peer.changed,
            beside=nothing_beside,
            clock=time.time,
        )
        for helper in others:
            await host.connect(None, helper.listen_addresses()[0], timeout_s=FAST_S)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.reachability.run)
            yield peer, others, other
            nursery.cancel_scope.cancel()


def connector(host: Host, others: Sequence[Host]) -> Callable[[PeerId], Awaitable[None]]:
    addresses = {other.peer_id: other.listen_addresses()[0] for other in others}

    async def connect(peer: PeerId) -> None:
        await host.connect(peer, addresses[peer], timeout_s=FAST_S)

    return connect


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look again soon."""
    monkeypatch.setattr(reachability_module, "CONFIRM_S", 0.1)
    monkeypatch.setattr(reachability_module, "DIAL_EVERY_S", 0.0)
    monkeypatch.setattr(reachability_module, "RECHECK_S", 0.2)
    monkeypatch.setattr(reachability_module, "RETRY_S", 0.1)
    monkeypatch.setattr(reachability_module, "MAP_RETRY_S", 0.2)


@pytest.mark.usefixtures("hasty")
async def test_who_can_be_dialled_publishes_what_it_knows() -> None:
    async with peer_with(["/ip4/127.0.0.1/tcp/PORT"], helpers=2) as (peer, _, _other):
        await trio.sleep(0.6)
        assert peer.changes == []
        assert not peer.reachability.hidden


@pytest.mark.usefixtures("hasty")
async def test_who_is_reached_at_another_address_publishes_it_first() -> None:
    async with peer_with(["/ip4/192.0.2.9/tcp/PORT"]) as (peer, _, other):
        await peer.publishes(lambda addresses: len(addresses) > 1)
        outside, inside = peer.published
        assert outside == peer.host.listen_addresses()[0]
        assert inside.startswith("/ip4/192.0.2.9/")
        await other.connect(peer.host.peer_id, outside, timeout_s=FAST_S)


@pytest.mark.usefixtures("hasty")
async def test_who_cannot_be_dialled_is_reached_through_its_helpers() -> None:
    async with peer_with([NOWHERE], helpers=3) as (peer, helpers, other):
        await peer.publishes(is_hidden)
        *circuits, own = peer.published
        relays = {address.split("/")[6] for address in circuits}
        assert own == NOWHERE  # for who is on the same machine or network
        assert relays == {helper.peer_id for helper in helpers[:2]}
        await other.connect(peer.host.peer_id, peer.published[0], timeout_s=FAST_S)
        assert peer.reachability.hidden


@pytest.mark.usefixtures("hasty")
async def test_a_relay_sees_the_port_that_a_hidden_peer_listens_on() -> None:
    async with peer_with([NOWHERE]) as (peer, (relay,), _):
        await peer.publishes(is_hidden)
        listening = Address("ip4", "127.0.0.1", port_of(peer.host))
        while peer.reachability.outside()[0] != listening:
            await trio.testing.wait_all_tasks_blocked(0.01)
        await peer.host.disconnect(relay.peer_id)  # the way ends with the connection
        assert listening not in peer.reachability.outside()
        await peer.host.connect(None, relay.listen_addresses()[0], timeout_s=FAST_S)
        while peer.reachability.outside()[0] != listening:
            await trio.testing.wait_all_tasks_blocked(0.01)


@pytest.mark.usefixtures("hasty")
async def test_one_helper_that_gets_through_to_nobody_is_outvoted() -> None:
    async with peer_with(["/ip4/127.0.0.1/tcp/PORT"], helpers=3) as (peer, helpers, _):

        async def shut_in(_: PeerId, __: Address) -> bool:
            return False

        helpers[0].answers_at = shut_in  # type: ignore[method-assign, assignment]  # its way out is shut
        await trio.sleep(0.8)
        assert peer.changes == []


@pytest.mark.usefixtures("hasty")
async def test_a_dial_that_is_lost_once_hides_nobody() -> None:
    async with peer_with(["/ip4/127.0.0.1/tcp/PORT"]) as (peer, (helper,), _):
        dial, lost = helper.answers_at, 0

        async def lose_every_other(asker: PeerId, target: Address) -> bool:
            nonlocal lost
            lost += 1
            return bool(lost % 2 == 0) and await dial(asker, target)

        helper.answers_at = lose_every_other  # type: ignore[method-assign, assignment]  # loses packets
        while lost < 6:
            await trio.testing.wait_all_tasks_blocked(0.01)
        assert peer.changes == []


@pytest.mark.usefixtures("hasty")
async def test_a_port_that_is_opened_later_ends_the_hiding(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reachability_module, "WANTED", 1)
    async with peer_with(["/ip4/127.0.0.1/tcp/PORT"], helpers=2) as (peer, helpers, other):
        shut = True

        def behind_a_firewall(dial: Callable[[PeerId, Address], Awaitable[bool]]) -> object:
            async def answers_at(asker: PeerId, target: Address) -> bool:
                return not shut and await dial(asker, target)

            return answers_at

        for helper in helpers:
            opened_later = behind_a_firewall(helper.answers_at)
            helper.answers_at = opened_later  # type: ignore[method-assign, assignment]
        await peer.publishes(is_hidden)
        shut = False
        await peer.publishes(lambda addresses: not is_hidden(addresses))
        assert not peer.reachability.hidden
        await other.connect(peer.host.peer_id, peer.published[0], timeout_s=FAST_S)


async def test_a_machine_that_comes_back_from_elsewhere_asks_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reachability_module, "CONFIRM_S", 0.0)
    monkeypatch.setattr(reachability_module, "DIAL_EVERY_S", 0.0)
    async with peer_with(["/ip4/127.0.0.1/tcp/PORT"]) as (peer, (helper,), _):
        asked, dial, moved = 0, helper.answers_at, False

        async def note(asker: PeerId, target: Address) -> bool:
            nonlocal asked
            asked += 1
            return not moved and await dial(asker, target)

        helper.answers_at = note  # type: ignore[method-assign, assignment]  # it is what is watched
        while not asked:
            await trio.testing.wait_all_tasks_blocked(0.01)
        moved = True
        await peer.host.disconnect(helper.peer_id)
        await trio.testing.wait_all_tasks_blocked(0.01)
        await peer.host.connect(None, helper.listen_addresses()[0], timeout_s=FAST_S)
        await peer.publishes(is_hidden)


async def test_who_is_told_to_hide_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    async with peer_with(["/ip4/127.0.0.1/tcp/PORT"], "no") as (peer, _, other):
        await peer.publishes(is_hidden)
        await other.connect(peer.host.peer_id, peer.published[0], timeout_s=FAST_S)
        assert not other.is_direct(peer.host.peer_id)


async def test_who_is_told_that_it_can_be_dialled_asks_nobody() -> None:
    async with peer_with([NOWHERE], "yes") as (peer, (helper,), _):
        asked: list[PeerId] = []

        async def note(connection: Connection, stream: MuxedBytes) -> None:
            asked.append(connection.peer)
            await stream.reset()

        helper.handle_bytes(DIAL_BACK_PROTOCOL, note)
        await trio.sleep(0.3)
        assert (peer.changes, asked) == ([], [])
        assert peer.reachability.outside() == parse_addresses([NOWHERE])


@pytest.mark.usefixtures("hasty")
async def test_helpers_that_answer_nonsense_or_nothing_change_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reachability_module, "ASK_TIMEOUT_S", 0.1)
    async with peer_with([NOWHERE], helpers=3) as (peer, (one, two, three), other):

        async def nonsense(connection: Connection, stream: MuxedBytes) -> None:
            async with FramedStream(stream, connection.peer) as framed:
                await framed.receive()
                await framed.send(b'{"observed": 7}')

        async def silence(_: Connection, __: MuxedBytes) -> None:
            await trio.sleep_forever()

        one.handle_bytes(DIAL_BACK_PROTOCOL, nonsense)
        two.handle_bytes(DIAL_BACK_PROTOCOL, silence)
        del three._bytes_handlers[DIAL_BACK_PROTOCOL]
        await trio.sleep(0.6)
        assert not peer.reachability.hidden
        assert peer.changes == []
        with pytest.raises(PeerUnreachable):
            await other.connect(peer.host.peer_id, NOWHERE, timeout_s=FAST_S)
