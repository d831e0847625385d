"""The bytes of one connection, and the handshake that says who is at the other end.

First the network's private cipher if there is a passphrase, then multistream-select for Noise
(nothing else is offered, so plaintext is refused), Noise XX, and multistream-select for Yamux.

While a passphrase is being changed there are several keys for the cipher. A dialler uses one, and
another in a further attempt. Who accepts holds each key to the dialler's first bytes, which are its
nonce and a greeting that everybody knows; so nothing is sent to find out, and no time is lost.
"""

from collections.abc import Awaitable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import trio
from libp2p.abc import ISecureConn
from libp2p.exceptions import BaseLibp2pError
from libp2p.io.abc import ReadWriteCloser
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.security.pnet.protector import new_protected_conn
from libp2p.security.pnet.psk_conn import PskConn

from overlay import multistream
from overlay.errors import (
    MalformedMessage,
    MyxoError,
    PassphraseRefused,
    PeerUnreachable,
    ProtocolRefused,
    SignatureInvalid,
)
from overlay.gate import MAX_REFUSAL_BYTES, Gate, Psk, Refusal, refused_here, refused_there
from overlay.identity import public_key_of
from overlay.names import PeerId

HANDSHAKE_TIMEOUT_S = 5.0
"""Four round trips over the slowest link worth having; a half-open client costs no more."""

_NONCE_BYTES = 8
"""Of py-libp2p's private-network cipher, in front of the first bytes."""

_NOISE = "/noise"
_YAMUX = "/yamux/1.0.0"

_STALL_S = 20.0
"""The other end's kernel did not take `_PART_BYTES` in so long: it is gone."""

_PART_BYTES = 64 * 1024

_QUEUE_BYTES = 256 * 1024
"""Waiting to be sent on a connection before writers wait."""

_MAX_QUEUE_BYTES = 16 * 1024 * 1024
"""All streams' parts at once are half of it; the rest are answers, which are not held back."""

_CLOSE_S = 0.5
"""For the last bytes of a connection that ends in good order."""


class Wire(ReadWriteCloser):
    """A byte stream with both directions buffered, as libp2p's layers want it.

    `read` returns exactly what is asked for, or less at the end. Until `queue` is called, `write`
    sends directly; from then on it queues in one step, so that a cancelled writer never leaves half
    of its bytes behind.
    """

    def __init__(self, stream: trio.abc.Stream, remote: tuple[str, int] | None = None) -> None:
        self._stream = stream
        self._remote = remote
        self._received = bytearray()
        self._queued = bytearray()
        self._pumping = False
        self._sending = False
        self._broken = False
        self._news = trio.Event()
        self._drained = trio.Event()

    async def read(self, n: int | None = None) -> bytes:
        """Return exactly `n` bytes, or less if the connection ends before."""
        wanted = 1 if n is None else n
        while len(self._received) < wanted:
            try:
                data = await self._stream.receive_some()
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                data = b""
            if not data:
                break
            self._received += data
        taken = bytes(self._received[:n])
        del self._received[: len(taken)]
        return taken

    async def peek(self, n: int) -> bytes:
        """Return the next `n` bytes, or less if the connection ends before; they stay unread."""
        self._received[:0] = data = await self.read(n)
        return data

    async def write(self, data: bytes) -> None:
        """Send or queue `data`.

        Raises:
            ConnectionClosedError: the connection is lost or closed.
        """
        if self._broken:
            raise ConnectionClosedError("the connection is closed")
        if not self._pumping:
            await self._send(data)
            return
        self._queued += data
        self._news.set()
        if len(self._queued) > _MAX_QUEUE_BYTES:
            self._broken = True
            self._wake()
            raise ConnectionClosedError("the other end asks for answers and does not read them")

    async def room(self) -> None:
        """Wait until little is queued; a writer of bulk does so before each part.

        `write` itself does not wait: the task that reads answers pings and opens streams, and if
        it waited to write on both ends, neither would read, and neither could ever write again.
        """
        while len(self._queued) > _QUEUE_BYTES and not self._broken:
            await self._drained.wait()

    def queue(self) -> None:
        """Have `write` queue from now on, for `pump` to send."""
        self._pumping = True

    async def pump(self) -> None:
        """Send what is queued until the connection breaks."""
        self.queue()
        try:
            while not self._broken:
                await self._news.wait()
                self._news = trio.Event()
                await self._send_queued()
        finally:
            self._wake()

    async def close(self) -> None:
        """Close the connection; what is queued gets `_CLOSE_S` to leave."""
        with trio.move_on_after(_CLOSE_S) as last:
            last.shield = True
            with suppress(ConnectionClosedError):
                if not self._sending:  # else the pump is stuck in the middle of it
                    await self._send_queued()
        self._broken = True
        self._wake()
        await trio.aclose_forcefully(self._stream)

    def get_remote_address(self) -> tuple[str, int] | None:
        """Return the IP address and port at the other end, if known."""
        return self._remote

    async def _send_queued(self) -> None:
        while self._queued and not self._broken:
            part = bytes(self._queued[:_PART_BYTES])
            del self._queued[:_PART_BYTES]
            await self._send(part)
            self._wake()

    async def _send(self, data: bytes) -> None:
        if self._broken:
            raise ConnectionClosedError("the connection is closed")
        self._sending = True
        try:
            with trio.fail_after(_STALL_S):
                await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError) as exc:
            self._broken = True
            raise ConnectionClosedError("the connection is lost") from exc
        finally:
            self._sending = False

    def _wake(self) -> None:
        self._drained.set()
        self._drained = trio.Event()


@dataclass(frozen=True, slots=True)
class Upgraded:
    """A connection after its handshake: whose it is, and the secured bytes to multiplex over.

    Attributes:
        psk: the key of the private network's cipher under which the two met.
    """

    peer: PeerId
    wire: Wire
    secured: ISecureConn
    psk: Psk


async def upgrade(
    wire: Wire,
    noise: NoiseTransport,
    gate: Gate,
    *,
    psks: Sequence[Psk],
    dialled: bool,
) -> Upgraded:
    """Return the authenticated connection over `wire`, which the caller closes.

    Both ends have agreed to multiplex it by Yamux. Bounded by `HANDSHAKE_TIMEOUT_S`.

    Args:
        wire: the bytes.
        noise: this peer's end of the Noise handshake.
        gate: says whether the other end is welcome, and is told if this one is not.
        psks: the key to dial under, or those that a caller may use.
        dialled: whether this end dialled.

    Raises:
        PassphraseRefused: the other end's first bytes make no sense under this passphrase, or one
            of the two turns the other away because of the passphrase that it has.
        PeerRefused: one of the two turns the other away.
        PeerUnreachable: it does not complete the handshake.
    """
    try:
        with trio.fail_after(HANDSHAKE_TIMEOUT_S):
            psk = psks[0] if dialled or len(psks) == 1 else await _key_of_caller(wire, psks)
            secured = await _secure(_private(wire, psk, dialled), noise, dialled)
            peer = _authenticated_peer(secured)
            refusal = gate.refusal(peer, psk)
            if refusal is not None:
                if not dialled:
                    await _turn_away(_Clear(secured), refusal)
                raise refused_here(peer, refusal)
            await _agree_on_muxer(_Clear(secured), peer, gate, dialled)
    except trio.TooSlowError as exc:
        raise PeerUnreachable("it did not complete the handshake in time") from exc
    return Upgraded(peer, wire, secured, psk)


async def _key_of_caller(wire: Wire, psks: Sequence[Psk]) -> Psk:
    """Return the key that the dialler's first bytes are written under; the first if none fits."""
    greeting = multistream.GREETING_BYTES
    first = await wire.peek(_NONCE_BYTES + len(greeting))
    if len(first) < _NONCE_BYTES + len(greeting):
        return psks[0]  # it said too little before it closed; the handshake will find that out
    for psk in psks:
        if psk is not None:
            plain = await PskConn(_Said(first), psk.hex()).read(len(greeting))
            if plain == greeting:
                return psk
    return psks[0]


class _Said(RawConnection):
    """Bytes that were received, to be read once more."""

    def __init__(self, said: bytes) -> None:
        self._said = said

    async def read(self, n: int | None = None) -> bytes:
        taken, self._said = self._said[:n], self._said[n:]
        return taken


async def who_answers(wire: Wire, noise: NoiseTransport, psk: Psk) -> PeerId:
    """Return who is at the dialled end of `wire`, which then is of no more use.

    Nothing is multiplexed over it, so that the other end never counts it as a connection.

    Raises:
        PeerUnreachable: as `upgrade`.
    """
    try:
        with trio.fail_after(HANDSHAKE_TIMEOUT_S):
            return _authenticated_peer(await _secure(_private(wire, psk, True), noise, True))
    except trio.TooSlowError as exc:
        raise PeerUnreachable("it did not complete the handshake in time") from exc


def _private(wire: Wire, psk: Psk, dialled: bool) -> RawConnection:
    raw = RawConnection(wire, dialled)
    return raw if psk is None else new_protected_conn(raw, psk.hex())


class _Clear:
    """A secured connection as a multistream `Channel`."""

    def __init__(self, conn: RawConnection | ISecureConn) -> None:
        self._conn = conn

    async def read(self, n: int) -> bytes:
        return await self._conn.read(n)

    async def write(self, data: bytes) -> None:
        await self._conn.write(data)


async def _secure(raw: RawConnection, noise: NoiseTransport, dialled: bool) -> ISecureConn:
    pattern = noise.get_pattern()
    try:
        # Who answers is compared by the caller, which can say who it is instead.
        if dialled:
            await multistream.propose(_Clear(raw), _NOISE)
            return await pattern.handshake_outbound(_Proposed(raw), None)
        await _agree_on_noise(multistream.answer(_Clear(raw), [_NOISE]))
        return await pattern.handshake_inbound(raw)
    except MyxoError:
        raise
    except ConnectionClosedError as exc:
        raise PeerUnreachable(f"it closed the connection ({exc})") from exc
    except Exception as exc:
        raise PeerUnreachable(f"the Noise handshake failed ({type(exc).__name__})") from exc


class _Proposed(RawConnection):
    """A connection on which Noise was proposed: the answer comes before anything else is read.

    Noise's first message follows the proposal at once, which saves a round trip of each dial.
    """

    def __init__(self, raw: RawConnection) -> None:
        self._raw = raw
        self._answered = False

    async def read(self, n: int | None = None) -> bytes:
        if not self._answered:
            self._answered = True
            await _agree_on_noise(multistream.read_answer(_Clear(self._raw), _NOISE))
        return await self._raw.read(n)

    async def write(self, data: bytes) -> None:
        await self._raw.write(data)

    async def close(self) -> None:
        await self._raw.close()

    def get_remote_address(self) -> tuple[str, int] | None:
        return self._raw.get_remote_address()


async def _agree_on_noise(agreement: Awaitable[object]) -> None:
    try:
        await _agreed(agreement)
    except multistream.NotMultistream as exc:
        raise PassphraseRefused(
            "it answers but does not share this network's passphrase: --psk, or P2P_PSK, must be "
            "as in the line that `myxo up` prints on the founder's machine"
        ) from exc


async def _turn_away(channel: _Clear, refusal: Refusal) -> None:
    """Say no to the muxer, and why; a dialler that does not know of reasons understands the no."""
    data = refusal.to_bytes()
    with suppress(Exception):  # it is turned away, whether it listens or not
        await multistream.decline(channel)
        await channel.write(len(data).to_bytes(2, "big") + data)


async def _agree_on_muxer(channel: _Clear, peer: PeerId, gate: Gate, dialled: bool) -> None:
    try:
        await _agree(channel, _YAMUX, dialled)
    except PeerUnreachable as exc:
        if not dialled or not isinstance(exc.__cause__, ProtocolRefused):
            raise
        refusal = await _read_refusal(channel)
        if refusal is not None:
            gate.turned_away(peer, refusal)
        raise refused_there(refusal) from exc


async def _read_refusal(channel: _Clear) -> Refusal | None:
    with suppress(Exception):  # Noise has its own ways to say that there is no more
        size = int.from_bytes(await channel.read(2), "big")
        if size <= MAX_REFUSAL_BYTES:
            return Refusal.from_bytes(await channel.read(size))
    return None


async def _agree(channel: _Clear, protocol: str, dialled: bool) -> None:
    offer, answer = multistream.offer, multistream.answer
    await _agreed(offer(channel, protocol) if dialled else answer(channel, [protocol]))


async def _agreed(agreement: Awaitable[object]) -> None:
    try:
        await agreement
    except multistream.NotMultistream:
        raise
    except (MalformedMessage, ProtocolRefused) as exc:
        raise PeerUnreachable(str(exc)) from exc
    except (BaseLibp2pError, ValueError) as exc:  # ValueError: closed inside the cipher's nonce
        raise PeerUnreachable(f"it closed the connection ({exc})") from exc
    except Exception as exc:  # Noise says in its own way that a message is no peer's
        raise PeerUnreachable(f"the agreement failed ({type(exc).__name__})") from exc


def _authenticated_peer(secured: ISecureConn) -> PeerId:
    peer = PeerId(secured.get_remote_peer().to_base58())
    try:
        public_key_of(peer)
    except SignatureInvalid as exc:
        raise PeerUnreachable("its identity is no Ed25519 key") from exc
    return peer
