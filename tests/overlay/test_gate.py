"""Real hosts over loopback, whose gates know several keys and turn peers away."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field

import pytest
import trio
from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.security.noise.transport import PROTOCOL_ID
from libp2p.security.noise.transport import Transport as NoiseTransport
from multiaddr import Multiaddr

from overlay import multistream, wire
from overlay.errors import MyxoError, PassphraseRefused, PeerRefused, PeerUnreachable
from overlay.framing import FramedStream
from overlay.gate import MAX_REFUSAL_BYTES, Psk, Reason, Refusal
from overlay.host import Disconnected, Host, open_host
from overlay.identity import Identity
from overlay.names import PeerId
from overlay.signed import Purpose, sign

LOOPBACK = "/ip4/127.0.0.1/tcp/0"
ECHO = "/test/echo/1.0.0"
A, B, C = b"a" * 32, b"b" * 32, b"c" * 32
FAST_S = 30.0
ADMIN = Identity.generate()
BAN = Refusal(reason=Reason.BANNED, statement=sign(ADMIN, Purpose.BAN, b"{}"))


@dataclass
class Door:
    """A gate that a test opens and shuts."""

    dial: Sequence[Psk] = (None,)
    accept: Sequence[Psk] = (None,)
    shut: dict[PeerId, Refusal] = field(default_factory=dict)
    only_for: dict[Psk, set[PeerId]] = field(default_factory=dict)
    told: list[tuple[PeerId, Refusal]] = field(default_factory=list)
    meetings: list[PeerId] = field(default_factory=list)

    def keys_to_dial(self, peer: PeerId | None) -> Sequence[Psk]:
        del peer
        return self.dial

    def keys_to_accept(self) -> Sequence[Psk]:
        return self.accept

    def refusal(self, peer: PeerId, psk: Psk) -> Refusal | None:
        if psk in self.only_for and peer not in self.only_for[psk]:
            return Refusal(reason=Reason.PASSPHRASE)
        return self.shut.get(peer)

    def turned_away(self, peer: PeerId, refusal: Refusal) -> None:
        self.told.append((peer, refusal))

    def met(self, peer: PeerId) -> None:
        self.meetings.append(peer)


@asynccontextmanager
async def hosts(*doors: Door) -> AsyncIterator[list[Host]]:
    with trio.fail_after(60):
        async with AsyncExitStack() as stack:
            opened = []
            for door in doors:
                host = open_host(Identity.generate(), [LOOPBACK], gate=door)
                opened.append(await stack.enter_async_context(host))
                opened[-1].handle(ECHO, echo)
            yield opened


async def echo(_: PeerId, stream: FramedStream) -> None:
    while (message := await stream.receive()) is not None:
        await stream.send(message)


async def connect(one: Host, other: Host) -> None:
    await one.connect(other.peer_id, other.listen_addresses()[0], timeout_s=FAST_S)


async def answers(one: Host, other: Host) -> bool:
    async with await one.open_stream(other.peer_id, ECHO) as stream:
        await stream.send(b"?")
        return await stream.receive() == b"?"


async def gone(host: Host, peer: PeerId) -> None:
    async for event in host.connections:
        if event == Disconnected(peer):
            return


# Several keys


@pytest.mark.parametrize("key", [A, B, C])
async def test_a_listener_with_several_keys_tells_which_one_a_caller_uses(key: bytes) -> None:
    async with hosts(Door(dial=[key]), Door(accept=[A, B, C])) as (caller, listener):
        await connect(caller, listener)
        assert await answers(caller, listener)
        (connection,) = listener._connections.of(caller.peer_id)
        assert connection.psk == key


async def test_a_listener_with_several_keys_refuses_all_others_and_says_why() -> None:
    async with hosts(Door(dial=[C]), Door(dial=[None]), Door(accept=[A, B])) as (
        wrong,
        none,
        listener,
    ):
        for caller in (wrong, none):
            with pytest.raises(PassphraseRefused, match="passphrase"):
                await connect(caller, listener)
        assert listener.connected() == frozenset()


@pytest.mark.parametrize("accept", [[A], [B, A]])
async def test_a_dialler_tries_its_keys_in_turn(accept: list[Psk]) -> None:
    async with hosts(Door(dial=[C, B, A]), Door(accept=accept)) as (caller, listener):
        await connect(caller, listener)
        assert await answers(caller, listener)


async def test_a_dialler_none_of_whose_keys_fits_says_so() -> None:
    async with hosts(Door(dial=[C, B]), Door(accept=[A])) as (caller, listener):
        with pytest.raises(PassphraseRefused):
            await connect(caller, listener)


async def test_a_stock_peer_gets_in_under_any_of_several_keys() -> None:
    door = Door(accept=[A, B])
    async with hosts(door) as (listener,):
        keys = create_new_key_pair(Identity.generate().seed)
        noise = NoiseTransport(keys, create_noise_key_pair().private_key)
        stock = new_host(key_pair=keys, sec_opt={PROTOCOL_ID: noise}, psk=B.hex())
        async with stock.run([]):
            address = f"{listener.listen_addresses()[0]}/p2p/{listener.peer_id}"
            await stock.connect(info_from_p2p_addr(Multiaddr(address)))
            assert str(stock.get_id()) in listener.connected()
            with trio.move_on_after(1, shield=True):
                await stock.close()


async def test_a_caller_that_says_too_little_is_let_go_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(wire, "HANDSHAKE_TIMEOUT_S", 0.3)
    async with hosts(Door(accept=[A, B])) as (listener,):
        port = int(listener.listen_addresses()[0].rpartition("/")[2])
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(b"too little")
            assert await stream.receive_some() == b""


@pytest.mark.parametrize("size", [0, 1, 7, 8, 27, 28, 100])
async def test_a_caller_that_closes_early_harms_nobody(size: int) -> None:
    async with hosts(Door(dial=[B]), Door(accept=[A, B])) as (member, listener):
        port = int(listener.listen_addresses()[0].rpartition("/")[2])
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(b"x" * size)
            await stream.send_eof()
            with suppress(trio.BrokenResourceError):
                while await stream.receive_some():
                    pass
        await connect(member, listener)
        assert await answers(member, listener)


async def test_bytes_that_were_looked_at_are_still_there() -> None:
    near, far = trio.testing.memory_stream_pair()
    looked = wire.Wire(far)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(near.send_all, b"hello")
        assert await looked.peek(3) == b"hel"
        assert await looked.peek(5) == b"hello"
        assert await looked.read(5) == b"hello"
    await near.aclose()
    assert await looked.peek(5) == b""


# Turning away


async def test_who_is_turned_away_is_told_why_with_the_proof_and_gets_no_connection() -> None:
    guest, owner = Door(), Door()
    async with hosts(guest, owner) as (caller, listener):
        owner.shut[caller.peer_id] = BAN
        with pytest.raises(PeerRefused, match="banned"):
            await connect(caller, listener)
        assert guest.told == [(listener.peer_id, BAN)]
        assert listener.connected() == caller.connected() == frozenset()
        assert owner.meetings == []


async def test_an_old_passphrase_that_counts_for_others_only_is_named_as_the_reason() -> None:
    guest, owner = Door(dial=[A]), Door(accept=[B, A], only_for={A: set()})
    async with hosts(guest, owner) as (caller, listener):
        with pytest.raises(PassphraseRefused, match="was changed"):
            await connect(caller, listener)
        assert [refusal.reason for _, refusal in guest.told] == [Reason.PASSPHRASE]
        owner.only_for[A].add(caller.peer_id)
        await connect(caller, listener)


async def test_who_is_shut_out_is_not_dialled_either() -> None:
    ours, theirs = Door(), Door()
    async with hosts(ours, theirs) as (host, other):
        ours.shut[other.peer_id] = BAN
        with pytest.raises(PeerRefused, match="banned"):
            await connect(host, other)
        with pytest.raises(PeerRefused, match="banned"):
            await host.connect(None, other.listen_addresses()[0], timeout_s=FAST_S)
        assert other.connected() == host.connected() == frozenset()


async def test_a_review_cuts_at_once_whom_the_gate_refuses_now_and_nobody_else() -> None:
    door = Door()
    async with hosts(door, Door(), Door()) as (host, shut, other):
        await connect(shut, host)
        await connect(other, host)
        stream = await shut.open_stream(host.peer_id, ECHO)
        door.shut[shut.peer_id] = BAN
        host.review()
        assert host.connected() == {other.peer_id}
        with pytest.raises(MyxoError):
            await stream.receive()
        await gone(shut, host.peer_id)
        with pytest.raises(PeerRefused):
            await connect(shut, host)
        assert await answers(other, host)
        del door.shut[shut.peer_id]
        await connect(shut, host)
        assert await answers(shut, host)


async def test_a_gate_that_shuts_during_the_handshake_lets_nobody_slip_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    owner = Door()
    async with hosts(Door(), owner) as (caller, listener):
        agree = wire._agree_on_muxer

        async def agree_and_shut(*args: object) -> None:
            await agree(*args)  # type: ignore[arg-type]  # whatever it takes
            owner.shut[caller.peer_id] = BAN

        monkeypatch.setattr(wire, "_agree_on_muxer", agree_and_shut)
        with suppress(PeerUnreachable):
            await connect(caller, listener)
        with pytest.raises(PeerUnreachable):
            await answers(caller, listener)
        assert caller.peer_id not in listener.connected()


async def test_a_gate_is_told_of_a_peer_once_while_it_is_connected() -> None:
    ours, theirs = Door(), Door()
    async with hosts(ours, theirs) as (host, other):
        await connect(host, other)
        await connect(other, host)
        assert (ours.meetings, theirs.meetings) == ([other.peer_id], [host.peer_id])


@pytest.mark.parametrize("said", [b"", b"\0", b"\0\5no", b"\0\2{}", b"\xff\xff" + b"x" * 100])
async def test_a_refusal_that_makes_no_sense_is_still_a_refusal(
    said: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def decline(channel: wire._Clear, _: Refusal) -> None:
        await multistream.decline(channel)
        if said:
            await channel.write(said)

    monkeypatch.setattr(wire, "_turn_away", decline)
    guest, owner = Door(), Door()
    async with hosts(guest, owner) as (caller, listener):
        owner.shut[caller.peer_id] = BAN
        with pytest.raises(PeerRefused, match="does not say why"):
            await connect(caller, listener)
        assert guest.told == []


def test_a_refusal_is_read_as_it_was_written() -> None:
    data = BAN.to_bytes()
    assert len(data) < MAX_REFUSAL_BYTES
    assert Refusal.from_bytes(data) == BAN
    assert Refusal.from_bytes(b'{"reason": "weather"}') is None
