"""The libp2p host: who this peer is, where it listens, whom it is connected to.

TCP, Noise and Yamux, and nothing else offered: py-libp2p's defaults also accept plaintext, under
which a host with only a victim's public key passes for it. Connections are made in one attempt;
when to try again, and whether a silent peer still lives, is its caller's to decide.

A peer that cannot be dialled is reached through a relay: then the same layers run over a stream to
the relay, which sees what a router sees. The network's cipher is among these layers, as in
go-libp2p, although the bytes are under it once more on the way to the relay: so it is not the
relay's word that the other end knows the passphrase (it costs 1 ns a byte). Where there are both,
streams take the direct connection, and the relayed one is closed once nothing runs on it.
"""

import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from math import inf

import structlog
import trio
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
from libp2p.security.noise.transport import Transport as NoiseTransport

from overlay import multistream
from overlay.addresses import Address, InvalidAddress, expand_wildcard, parse_address
from overlay.circuits import HOP_PROTOCOL, CircuitStream, ask_for_circuit
from overlay.connected import (
    Connected,
    ConnectionEvent,
    Connections,
    Disconnected,
    Moved,
)
from overlay.connection import NEGOTIATE_TIMEOUT_S, Connection, MuxedBytes
from overlay.errors import MyxoError, PassphraseRefused, PeerUnreachable, ProtocolRefused
from overlay.framing import FramedStream
from overlay.gate import Gate, OneKey, Psk, refused_here
from overlay.identify import IDENTIFY_PROTOCOL, PING_PROTOCOL, answer_pings, identify
from overlay.identity import Identity
from overlay.names import PeerId
from overlay.tcp import bound_address, dial_tcp, listen_tcp, remote_of
from overlay.wire import Wire, upgrade, who_answers

__all__ = ["Connected", "ConnectionEvent", "Disconnected", "Host", "Moved", "open_host"]

MAX_CONNECTIONS = 4096
"""Of one host, both directions; each costs a file descriptor and some 60 KB."""

_MAX_HANDSHAKES = 64
"""Inbound and unfinished at once; the oldest gives way to a newcomer."""

_MAX_REFUSED_REMEMBERED = 1024
"""Addresses whose wrong passphrase has been logged; each is a warning once."""

log: structlog.stdlib.BoundLogger = structlog.get_logger()

StreamHandler = Callable[[PeerId, FramedStream], Awaitable[None]]
BytesHandler = Callable[[Connection, MuxedBytes], Awaitable[None]]


@asynccontextmanager
async def open_host(
    identity: Identity,
    listen: Sequence[str],
    *,
    psk: Psk = None,
    gate: Gate | None = None,
    max_connections: int = MAX_CONNECTIONS,
) -> AsyncIterator["Host"]:
    """Run a host until the block is left; then its ports are free again.

    Args:
        identity: who it is.
        listen: multiaddrs to accept connections on; port 0 is any free port.
        psk: the network's 32-byte key, None in an open network.
        gate: decides about keys and peers in place of `psk`.
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
        host = Host(identity, gate or OneKey(psk), listeners, nursery, max_connections)
        nursery.start_soon(host.run)
        try:
            yield host
        finally:
            host.has_ended = True
            nursery.cancel_scope.cancel()


class Host:
    """A running host; made by `open_host`.

    Attributes:
        identity: who it is.
        connections: `Connected`, `Disconnected` and `Moved` events; see `Connections.events`.
        has_ended: nothing can be dialled any more.
    """

    def __init__(
        self,
        identity: Identity,
        gate: Gate,
        listeners: Sequence[trio.SocketListener],
        nursery: trio.Nursery,
        max_connections: int,
    ) -> None:
        self.identity = identity
        self._connections = Connections(nursery)
        self.connections: trio.MemoryReceiveChannel[ConnectionEvent] = self._connections.events
        self._key_pair = create_new_key_pair(identity.seed)
        self._noise = NoiseTransport(self._key_pair, create_noise_key_pair().private_key)
        self._gate = gate
        self._listeners = listeners
        self._bound = [bound_address(listener) for listener in listeners]
        self._nursery = nursery
        self._max_connections = max_connections
        self._handlers: dict[str, StreamHandler] = {}
        self._bytes_handlers: dict[str, BytesHandler] = {}
        self._reversed: dict[tuple[str, int], PeerId] = {}
        self._handshakes: OrderedDict[trio.CancelScope, None] = OrderedDict()
        self._refused: set[str] = set()
        self.has_ended = False

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

    def handle_bytes(self, protocol: str, handler: BytesHandler) -> None:
        """Serve `protocol` with the connection and the bytes of each stream, as libp2p's own need.

        `handler` closes or resets the stream; what it raises is treated as by `handle`.
        """
        self._bytes_handlers[protocol] = handler

    async def connect(self, peer: PeerId | None, address: str, *, timeout_s: float) -> PeerId:
        """Return the peer that answers at `address`, connected; at once if it already is.

        Makes one attempt of at most `timeout_s` seconds. A peer that is connected through a relay
        is dialled all the same if the address is a direct one.

        Args:
            peer: who must answer; None leaves it to the address's `/p2p/` part, or to who answers.
            address: a multiaddr over TCP, perhaps of a circuit.
            timeout_s: for the whole of it.

        Raises:
            PassphraseRefused: it answers but does not share this network's passphrase.
            PeerRefused: it refuses this peer, or is refused here.
            PeerUnreachable: nobody answers there, another peer does, or it is no address.
        """
        try:
            target = parse_address(address)
        except InvalidAddress as exc:
            raise PeerUnreachable(str(exc)) from exc
        expected = peer or target.peer
        target = replace(target, peer=expected)
        known = None if expected is None else self._connections.best(expected)
        if known is not None and (target.relay is not None or not known.relayed):
            return known.peer
        with trio.move_on_after(timeout_s):
            return await self._dial(target, expected)
        raise PeerUnreachable(f"{address}: no answer within {timeout_s:g} s")

    async def open_stream(self, peer: PeerId, protocol: str) -> FramedStream:
        """Return a stream to a connected peer on which it speaks `protocol`.

        Raises:
            PeerUnreachable: there is no connection, it is lost, or it has too many streams open.
            ProtocolRefused: the peer does not speak `protocol`.
        """
        connection = self._connections.best(peer)
        if connection is None:
            raise PeerUnreachable(f"not connected to {peer}")
        try:
            stream = await connection.open_stream(protocol)
        except PeerUnreachable:
            # The peer may have died and come back, and only this showed that the connection is old.
            other = self._connections.best(peer)
            if other is None or other is connection:
                raise
            connection = other
            stream = await connection.open_stream(protocol)
        return FramedStream(stream, peer, outdated=lambda: stream.is_outdated)

    async def open_bytes(
        self, peer: PeerId, protocol: str, *, relayed: bool | None = False
    ) -> MuxedBytes:
        """Return the bare bytes of a stream to a connected peer on which it speaks `protocol`.

        Args:
            peer: to whom.
            protocol: what is spoken.
            relayed: whether to take a connection through a relay or a direct one, and none else;
                None for a direct one if there is.

        Raises:
            PeerUnreachable, ProtocolRefused: as `open_stream`.
        """
        connection = self._connections.best(peer, relayed=relayed)
        if connection is None:
            raise PeerUnreachable(
                f"not connected to {peer} {'by' if relayed else 'but by'} a relay"
            )
        return await connection.open_stream(protocol)

    async def accept_circuit(
        self,
        stream: MuxedBytes,
        source: PeerId,
        relay: PeerId,
        beside: Callable[[Connection], Awaitable[None]],
    ) -> None:
        """Run the connection that `source` makes over `stream`, which comes from `relay`.

        Returns when it has ended; at once if nobody, or somebody else, comes of it.

        Args:
            stream: closed when this returns.
            source: who must be at the other end.
            relay: through whom.
            beside: run for as long as the connection stands.
        """
        circuit = CircuitStream(stream)
        try:
            connection = await self._welcome(Wire(circuit), f"relay {relay}", relay=relay)
            if connection is None:
                return
            if connection.peer != source:
                log.warning("relay.lied", relay=relay, said=source, came=connection.peer)
                return
            async with trio.open_nursery() as nursery:
                await nursery.start(self._run, connection, nursery.cancel_scope.cancel)
                await beside(connection)
        finally:
            await trio.aclose_forcefully(circuit)

    async def dial_from_listener(
        self, peer: PeerId, target: Address, *, dialled: bool = True
    ) -> None:
        """Connect to `peer` at `target` from the port that is listened on; makes one attempt.

        A router between that translates addresses keeps a way back for that port, by which others
        may get through. Makes a further connection if there is one.

        Args:
            peer: who must answer.
            target: where it may answer.
            dialled: take the dialler's part in what runs over the connection; of two that dial
                each other one must not.

        Raises:
            PeerUnreachable: nobody, or somebody else, answers there.
        """
        source = next((bound for bound in self._bound if bound.kind == target.kind), None)
        if source is None:
            raise PeerUnreachable(f"{target}: no port of that kind is listened on here")
        psks = self._keys_for(peer, dialled=dialled)
        await self._establish(await dial_tcp(target, source), target, peer, psks, dialled=dialled)

    async def answers_at(self, peer: PeerId, target: Address) -> bool:
        """Return whether `peer` answers at `target`; no connection comes of it."""
        (psk,) = self._keys_for(peer, dialled=True)
        try:
            stream = await dial_tcp(target)
            try:
                return peer == await who_answers(Wire(stream), self._noise, psk)
            finally:
                await trio.aclose_forcefully(stream)
        except PeerUnreachable:
            return False

    @contextmanager
    def reversing(self, peer: PeerId, remotes: Iterable[tuple[str, int]]) -> Iterator[None]:
        """Take the dialler's part on connections that `peer` makes from `remotes` in the block.

        So both ends agree who is who when the one's dial comes before the other's.
        """
        mine = dict.fromkeys(set(remotes) - self._reversed.keys(), peer)
        self._reversed.update(mine)
        try:
            yield
        finally:
            for remote in mine:
                del self._reversed[remote]

    async def open_one_way(self, peer: PeerId, protocol: str) -> FramedStream:
        """Return a stream to a connected peer that is only written to; it costs no round trip.

        Raises:
            PeerUnreachable: there is no connection, it is lost, or it has too many streams open.
        """
        connection = self._connections.best(peer)
        if connection is None:
            raise PeerUnreachable(f"not connected to {peer}")
        return FramedStream(await connection.open_one_way(protocol), peer)

    async def disconnect(self, peer: PeerId) -> None:
        """Abort every connection with `peer` and return when they are gone."""
        async with trio.open_nursery() as nursery:
            for connection in self._connections.of(peer):
                nursery.start_soon(connection.abort)

    def review(self) -> None:
        """Abort the connections that the gate would refuse now."""
        for connection in self._connections:
            self._hold_to_gate(connection)

    def connected(self) -> frozenset[PeerId]:
        """Return the peers that there is a connection with."""
        return self._connections.peers()

    @property
    def next_change(self) -> trio.Event:
        """An event that is set at the next change of who is connected, or how."""
        return self._connections.next_change

    def is_direct(self, peer: PeerId) -> bool:
        """Whether there is a connection with `peer` that goes through no relay."""
        return self._connections.is_direct(peer)

    def is_relayed(self, peer: PeerId) -> bool:
        """Whether a peer is connected, and only through a relay."""
        return self._connections.best(peer) is not None and not self.is_direct(peer)

    def dialled_at(self, peer: PeerId) -> Address | None:
        """Return where a peer was dialled that is connected directly, None if it dialled."""
        return self._connections.dialled_at(peer)

    def remote_address(self, peer: PeerId) -> str | None:
        """Return the IP address that a peer is seen under, None if it is not connected directly."""
        connection = self._connections.best(peer)
        return connection.remote_address if connection else None

    async def run(self) -> None:
        """Accept connections and tell of events until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._connections.run)
            if self._listeners:
                nursery.start_soon(trio.serve_listeners, self._accept, list(self._listeners))

    async def _accept(self, stream: trio.SocketStream) -> None:
        try:
            remote = remote_of(stream)
            connection = await self._welcome(
                Wire(stream, remote),
                remote[0] if remote else "",
                reversed_for=None if remote is None else self._reversed.get(remote),
            )
            if connection is not None:
                await self._run(connection)
        finally:
            await trio.aclose_forcefully(stream)

    async def _dial(self, target: Address, expected: PeerId | None) -> PeerId:
        if expected == self.peer_id:
            raise PeerUnreachable(f"{target}: that is this peer itself")
        if self.has_ended:
            raise PeerUnreachable(f"{target}: this peer has left the overlay")
        first, *others = self._gate.keys_to_dial(expected)
        try:
            return await self._dial_under(first, target, expected)
        except PassphraseRefused:
            for psk in others:
                with suppress(PassphraseRefused):
                    return await self._dial_under(psk, target, expected)
            raise

    async def _dial_under(self, psk: Psk, target: Address, expected: PeerId | None) -> PeerId:
        if expected is not None and (refused := self._gate.refusal(expected, psk)) is not None:
            raise refused_here(expected, refused)
        stream = await (dial_tcp(target) if target.relay is None else self._dial_relay(target))
        return await self._establish(stream, target, expected, [psk], dialled=True)

    async def _establish(
        self,
        stream: trio.abc.Stream,
        target: Address,
        expected: PeerId | None,
        psks: Sequence[Psk],
        *,
        dialled: bool,
    ) -> PeerId:
        async with AsyncExitStack() as undo:
            undo.push_async_callback(trio.aclose_forcefully, stream)
            try:
                wire = Wire(stream, remote_of(stream))
                upgraded = await upgrade(wire, self._noise, self._gate, psks=psks, dialled=dialled)
                self._check(upgraded.peer, expected)
            except PeerUnreachable as exc:
                raise type(exc)(f"{target}: {exc}") from exc
            if self.has_ended:
                raise PeerUnreachable(f"{target}: this peer has left the overlay")
            await self._nursery.start(self._run, Connection(upgraded, self._serve, target.relay))
            undo.pop_all()
        return upgraded.peer

    def _keys_for(self, peer: PeerId | None, *, dialled: bool) -> Sequence[Psk]:
        """Return the key to dial a connected peer under, which it has shown, or those to accept."""
        if not dialled:
            return self._gate.keys_to_accept()
        known = None if peer is None else self._connections.best(peer)
        return [known.psk] if known is not None else self._gate.keys_to_dial(peer)[:1]

    async def _dial_relay(self, target: Address) -> CircuitStream:
        """Return a circuit to the peer behind a relay, which is dialled unless it is connected."""
        if target.peer is None:
            raise PeerUnreachable(f"{target}: it does not say who is behind the relay")
        relay = await self.connect(None, str(target.relay_address), timeout_s=inf)
        try:
            stream = await self.open_bytes(relay, HOP_PROTOCOL)
        except ProtocolRefused as exc:
            raise PeerUnreachable(f"{target}: {exc}, so it is no relay") from exc
        try:
            await ask_for_circuit(stream, target.peer)
        except BaseException:
            with trio.CancelScope(shield=True):
                await stream.reset()
            raise
        return CircuitStream(stream)

    def _check(self, peer: PeerId, expected: PeerId | None) -> None:
        if peer == self.peer_id:
            raise PeerUnreachable("that is this peer itself")
        if expected is not None and peer != expected:
            raise PeerUnreachable(f"another peer answers there: {peer}, not {expected}")

    async def _welcome(
        self,
        wire: Wire,
        ip: str,
        *,
        reversed_for: PeerId | None = None,
        relay: PeerId | None = None,
    ) -> Connection | None:
        if len(self._connections) >= self._max_connections:
            log.warning("connection.refused", address=ip, reason="too many connections")
            return None
        if len(self._handshakes) >= _MAX_HANDSHAKES:
            self._handshakes.popitem(last=False)[0].cancel()
        scope = trio.CancelScope()
        self._handshakes[scope] = None
        try:
            with scope:
                psks = self._keys_for(reversed_for, dialled=reversed_for is not None)
                upgraded = await upgrade(
                    wire, self._noise, self._gate, psks=psks, dialled=reversed_for is not None
                )
                return Connection(upgraded, self._serve, relay)
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
        ended: Callable[[], None] | None = None,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        self._connections.add(connection, self._gate.met)
        self._hold_to_gate(connection)  # which may have changed its mind during the handshake
        try:
            await connection.run(task_status=task_status)
        finally:
            self._connections.remove(connection)
            if ended is not None:
                ended()

    def _hold_to_gate(self, connection: Connection) -> None:
        if self._gate.refusal(connection.peer, connection.psk) is not None:
            connection.cancel()

    async def _serve(self, connection: Connection, stream: MuxedBytes) -> None:
        known = self._protocols
        try:
            with trio.fail_after(NEGOTIATE_TIMEOUT_S):
                protocol = await multistream.answer(stream, known)
            if protocol == IDENTIFY_PROTOCOL:
                await identify(
                    stream,
                    public_key=self._key_pair.public_key.serialize(),
                    addresses=self.listen_addresses(),
                    observed=connection.remote_address,
                    protocols=known,
                )
            elif protocol == PING_PROTOCOL:
                await answer_pings(stream)
            elif protocol in self._bytes_handlers:
                await self._bytes_handlers[protocol](connection, stream)
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

    @property
    def _protocols(self) -> tuple[str, ...]:
        return (*self._handlers, *self._bytes_handlers, IDENTIFY_PROTOCOL, PING_PROTOCOL)


def _silence_libp2p() -> None:
    """Keep py-libp2p's own log, which has a line for each failed dial, off standard error."""
    logger = logging.getLogger("libp2p")
    logger.setLevel(logging.CRITICAL + 1)
    logger.propagate = False
