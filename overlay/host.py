"""The libp2p host: who this peer is, where it listens, whom it is connected to.

TCP, Noise and Yamux, and nothing else offered: py-libp2p's defaults also accept plaintext, under
which a host with only a victim's public key passes for it. Connections are made in one attempt;
when to try again, and whether a silent peer still lives, is its caller's to decide.
"""

import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import structlog
import trio
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
from libp2p.identity.identify.pb.identify_pb2 import Identify
from libp2p.security.noise.transport import Transport as NoiseTransport
from multiaddr import Multiaddr

from overlay import multistream
from overlay.addresses import Address, InvalidAddress, expand_wildcard, parse_address
from overlay.connection import NEGOTIATE_TIMEOUT_S, Connection, MuxedBytes
from overlay.errors import MyxoError, PassphraseRefused, PeerUnreachable
from overlay.framing import FramedStream, encode_varint
from overlay.identity import Identity
from overlay.names import PeerId
from overlay.tcp import bound_address, dial_tcp, listen_tcp, remote_of
from overlay.wire import Wire, upgrade

MAX_CONNECTIONS = 4096
"""Of one host, both directions; each costs a file descriptor and some 60 KB."""

_MAX_HANDSHAKES = 64
"""Inbound and unfinished at once; the oldest gives way to a newcomer."""

_MAX_CONNECTIONS_PER_PEER = 4
"""Two come of dialling each other at once; the oldest gives way."""

_MAX_REFUSED_REMEMBERED = 1024
"""Addresses whose wrong passphrase has been logged; each is a warning once."""

_IDENTIFY = "/ipfs/id/1.0.0"
_PING = "/ipfs/ping/1.0.0"
_PING_BYTES = 32

log: structlog.stdlib.BoundLogger = structlog.get_logger()

StreamHandler = Callable[[PeerId, FramedStream], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Connected:
    """A peer with which there was no connection now has one."""

    peer: PeerId


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The last connection with a peer is gone."""

    peer: PeerId


ConnectionEvent = Connected | Disconnected


@asynccontextmanager
async def open_host(
    identity: Identity,
    listen: Sequence[str],
    *,
    psk: bytes | None,
    max_connections: int = MAX_CONNECTIONS,
) -> AsyncIterator["Host"]:
    """Run a host until the block is left; then its ports are free again.

    Args:
        identity: who it is.
        listen: multiaddrs to accept connections on; port 0 is any free port.
        psk: the network's 32-byte key, None in an open network.
        max_connections: further inbound ones are closed at once.

    Raises:
        AddressTaken: another process holds a port; says which process, if that can be known.
        SettingsInvalid: an address cannot be listened on.
    """
    _silence_libp2p()
    async with AsyncExitStack() as stack:
        listeners = [
            await stack.enter_async_context(listener)
            for address in listen
            for listener in await listen_tcp(address)
        ]
        nursery = await stack.enter_async_context(trio.open_nursery())
        host = Host(identity, psk, listeners, nursery, max_connections)
        nursery.start_soon(host.run)
        try:
            yield host
        finally:
            nursery.cancel_scope.cancel()


class Host:
    """A running host; made by `open_host`.

    Attributes:
        identity: who it is.
        connections: `Connected` and `Disconnected` events. A reader that lags sees fewer of them,
            but for each peer the last it sees tells how things are, and a peer that was gone in
            between is told as gone and come.
    """

    def __init__(
        self,
        identity: Identity,
        psk: bytes | None,
        listeners: Sequence[trio.SocketListener],
        nursery: trio.Nursery,
        max_connections: int,
    ) -> None:
        self.identity = identity
        self.connections: trio.MemoryReceiveChannel[ConnectionEvent]
        self._events, self.connections = trio.open_memory_channel[ConnectionEvent](0)
        self._key_pair = create_new_key_pair(identity.seed)
        self._noise = NoiseTransport(self._key_pair, create_noise_key_pair().private_key)
        self._psk = psk
        self._listeners = listeners
        self._bound = [bound_address(listener) for listener in listeners]
        self._nursery = nursery
        self._max_connections = max_connections
        self._handlers: dict[str, StreamHandler] = {}
        self._by_peer: dict[PeerId, list[Connection]] = {}
        self._handshakes: OrderedDict[trio.CancelScope, None] = OrderedDict()
        self._refused: set[str] = set()
        self._meetings = 0
        self._met: dict[PeerId, int] = {}
        self._changed: OrderedDict[PeerId, None] = OrderedDict()
        self._news = trio.Event()

    @property
    def peer_id(self) -> PeerId:
        """This host's peer id."""
        return self.identity.peer_id

    def listen_addresses(self) -> list[str]:
        """Return the multiaddrs that it is bound to, wildcards as the machine's own addresses."""
        return [str(one) for bound in self._bound for one in expand_wildcard(bound)]

    def bound_addresses(self) -> list[tuple[str, int]]:
        """Return host and port of each listener, wildcards as such."""
        return [(bound.host, bound.port) for bound in self._bound]

    def handle(self, protocol: str, handler: StreamHandler) -> None:
        """Serve `protocol`: `handler` gets each stream that a peer opens for it.

        When it returns the stream is finished; what it raises cuts the stream and is logged. It
        is cancelled when the connection ends.
        """
        self._handlers[protocol] = handler

    async def connect(self, peer: PeerId | None, address: str, *, timeout_s: float) -> PeerId:
        """Return the peer that answers at `address`, connected; at once if it already is.

        Makes one attempt of at most `timeout_s` seconds.

        Args:
            peer: who must answer; None leaves it to the address's `/p2p/` part, or to who answers.
            address: a multiaddr over TCP.
            timeout_s: for the whole of it.

        Raises:
            PassphraseRefused: it answers but does not share this network's passphrase.
            PeerUnreachable: nobody answers there, another peer does, or it is no address.
        """
        try:
            target = parse_address(address)
        except InvalidAddress as exc:
            raise PeerUnreachable(str(exc)) from exc
        expected = peer or target.peer
        if expected is not None and self._newest(expected) is not None:
            return expected
        with trio.move_on_after(timeout_s):
            return await self._dial(target, expected)
        raise PeerUnreachable(f"{address}: no answer within {timeout_s:g} s")

    async def open_stream(self, peer: PeerId, protocol: str) -> FramedStream:
        """Return a stream to a connected peer on which it speaks `protocol`.

        Raises:
            PeerUnreachable: there is no connection, it is lost, or it has too many streams open.
            ProtocolRefused: the peer does not speak `protocol`.
        """
        connection = self._newest(peer)
        if connection is None:
            raise PeerUnreachable(f"not connected to {peer}")
        try:
            stream = await connection.open_stream(protocol)
        except PeerUnreachable:
            # The peer may have died and come back, and only this showed that the connection is old.
            other = self._newest(peer)
            if other is None or other is connection:
                raise
            connection = other
            stream = await connection.open_stream(protocol)
        return FramedStream(stream, peer)

    async def disconnect(self, peer: PeerId) -> None:
        """Abort every connection with `peer` and return when they are gone."""
        async with trio.open_nursery() as nursery:
            for connection in self._by_peer.get(peer, []):
                nursery.start_soon(connection.abort)

    def connected(self) -> frozenset[PeerId]:
        """Return the peers that there is a connection with."""
        return frozenset(peer for peer in self._by_peer if self._newest(peer) is not None)

    def remote_address(self, peer: PeerId) -> str | None:
        """Return the IP address that a connected peer is seen under, None if it is not."""
        connection = self._newest(peer)
        return connection.remote_address if connection else None

    async def run(self) -> None:
        """Accept connections and tell of events until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tell_events)
            if self._listeners:
                nursery.start_soon(trio.serve_listeners, self._accept, list(self._listeners))

    async def _accept(self, stream: trio.SocketStream) -> None:
        try:
            remote = remote_of(stream)
            connection = await self._welcome(Wire(stream, remote), remote[0] if remote else "")
            if connection is not None:
                await self._run(connection)
        finally:
            await trio.aclose_forcefully(stream)

    async def _tell_events(self) -> None:
        told: dict[PeerId, int] = {}
        with self._events:
            while True:
                while self._changed:
                    peer, _ = self._changed.popitem(last=False)
                    await self._tell(peer, told)
                await self._news.wait()

    async def _tell(self, peer: PeerId, told: dict[PeerId, int]) -> None:
        if peer in told and self._met.get(peer) != told[peer]:
            del told[peer]
            await self._events.send(Disconnected(peer))
        if peer in self._met and peer not in told:
            told[peer] = self._met[peer]
            await self._events.send(Connected(peer))

    async def _dial(self, target: Address, expected: PeerId | None) -> PeerId:
        if expected == self.peer_id:
            raise PeerUnreachable(f"{target}: that is this peer itself")
        async with AsyncExitStack() as undo:
            stream = await dial_tcp(target)
            undo.push_async_callback(trio.aclose_forcefully, stream)
            try:
                wire = Wire(stream, remote_of(stream))
                upgraded = await upgrade(wire, self._noise, psk=self._psk, dialled=True)
                self._check(upgraded.peer, expected)
            except PeerUnreachable as exc:
                raise type(exc)(f"{target}: {exc}") from exc
            await self._nursery.start(self._run, Connection(upgraded, self._serve))
            undo.pop_all()
        return upgraded.peer

    def _check(self, peer: PeerId, expected: PeerId | None) -> None:
        if peer == self.peer_id:
            raise PeerUnreachable("that is this peer itself")
        if expected is not None and peer != expected:
            raise PeerUnreachable(f"another peer answers there: {peer}, not {expected}")

    async def _welcome(self, wire: Wire, ip: str) -> Connection | None:
        if sum(map(len, self._by_peer.values())) >= self._max_connections:
            log.warning("connection.refused", address=ip, reason="too many connections")
            return None
        if len(self._handshakes) >= _MAX_HANDSHAKES:
            self._handshakes.popitem(last=False)[0].cancel()
        scope = trio.CancelScope()
        self._handshakes[scope] = None
        try:
            with scope:
                upgraded = await upgrade(wire, self._noise, psk=self._psk, dialled=False)
                return Connection(upgraded, self._serve)
        except PassphraseRefused:
            self._log_refused(ip)
        except PeerUnreachable as exc:
            log.debug("connection.refused", address=ip, reason=str(exc))
        finally:
            self._handshakes.pop(scope, None)
        return None

    def _log_refused(self, ip: str) -> None:
        seen = ip in self._refused or len(self._refused) >= _MAX_REFUSED_REMEMBERED
        say = log.debug if seen else log.warning
        self._refused.add(ip)
        say("connection.refused", address=ip, reason="another passphrase, or not a Myxo peer")

    async def _run(
        self,
        connection: Connection,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        self._add(connection)
        try:
            await connection.run(task_status=task_status)
        finally:
            self._remove(connection)

    def _add(self, connection: Connection) -> None:
        peer = connection.peer
        mine = self._by_peer.setdefault(peer, [])
        mine.append(connection)
        if len(mine) == 1:
            self._meetings += 1
            self._met[peer] = self._meetings
            self._note_change(peer)
        elif len(mine) > _MAX_CONNECTIONS_PER_PEER:
            mine[0].cancel()

    def _remove(self, connection: Connection) -> None:
        peer = connection.peer
        mine = self._by_peer[peer]
        mine.remove(connection)
        if not mine:
            del self._by_peer[peer]
            del self._met[peer]
            self._note_change(peer)

    def _note_change(self, peer: PeerId) -> None:
        self._changed[peer] = None
        self._news.set()
        self._news = trio.Event()

    def _newest(self, peer: PeerId) -> Connection | None:
        live = (c for c in reversed(self._by_peer.get(peer, ())) if not c.is_closed)
        return next(live, None)

    async def _serve(self, connection: Connection, stream: MuxedBytes) -> None:
        known = (*self._handlers, _IDENTIFY, _PING)
        try:
            with trio.fail_after(NEGOTIATE_TIMEOUT_S):
                protocol = await multistream.answer(stream, known)
            if protocol == _IDENTIFY:
                await stream.write(self._identify(connection))
                await stream.close()
            elif protocol == _PING:
                await _echo(stream)
            else:
                await self._handle(protocol, connection, stream)
        except (trio.TooSlowError, MyxoError) as exc:
            log.debug("stream.ended", peer=connection.peer, reason=str(exc))
            await stream.reset()

    async def _handle(self, protocol: str, connection: Connection, stream: MuxedBytes) -> None:
        handler = self._handlers[protocol]
        async with FramedStream(stream, connection.peer) as framed:
            await handler(connection.peer, framed)
            await framed.finish()

    def _identify(self, connection: Connection) -> bytes:
        observed = _ip_multiaddr(connection.remote_address)
        message: bytes = Identify(
            protocol_version="ipfs/0.1.0",
            agent_version="myxo",
            public_key=self._key_pair.public_key.serialize(),
            listen_addrs=[Multiaddr(one).to_bytes() for one in self.listen_addresses()],
            observed_addr=observed.to_bytes() if observed else b"",
            protocols=[*self._handlers, _IDENTIFY, _PING],
        ).SerializeToString()
        return encode_varint(len(message)) + message


def _silence_libp2p() -> None:
    """Keep py-libp2p's own log, which has a line for each failed dial, off standard error."""
    logger = logging.getLogger("libp2p")
    logger.setLevel(logging.CRITICAL + 1)
    logger.propagate = False


def _ip_multiaddr(ip: str | None) -> Multiaddr | None:
    return Multiaddr(f"/{'ip6' if ':' in ip else 'ip4'}/{ip}") if ip else None


async def _echo(stream: MuxedBytes) -> None:
    while data := await stream.read(_PING_BYTES):
        await stream.write(data)
    await stream.close()
