"""Connections to another machine's gateway: TLS to any of its addresses, else by the overlay.

TCP with mutual TLS 1.3, where both ends compare the other's certificate with the pin in its signed
record, and the gateway says in one line that it accepts the caller. Nothing is sent before that
line, so a refusal is always replayable. A machine that nobody can dial, or whose gateway's port is
shut, has the same carried by the overlay; see `carried.py`.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import trio

from overlay.errors import PeerUnreachable, SettingsInvalid
from overlay.http.tls_stream import TlsStream
from overlay.names import PeerId
from overlay.records import PeerRecord
from overlay.settings import split_address
from overlay.tls import PeerTls, pin_of

CONNECT_TIMEOUT_S = 3.0
"""TCP and TLS to a gateway take three round trips; a second each is generous."""

ACCEPT_LINE = b"MYXO/1 OK\r\n"
MAX_ACCEPT_LINE = 512

Carry = Callable[[PeerId], Awaitable[trio.abc.Stream]]
"""Opens a connection to a peer's gateway over the overlay; raises `PeerUnreachable`."""


class GatewayShut(PeerUnreachable):
    """No connection to a gateway's address can be made; nobody there said no."""


async def dial_gateway(record: PeerRecord, tls: PeerTls) -> TlsStream:
    """Connect to a gateway at any of its addresses.

    Raises:
        GatewayShut: none of them can be connected to.
        PeerUnreachable: it has none, or who answers there does not accept this peer.
    """
    failures = [PeerUnreachable(f"{record.host} has no gateway")]
    for address in record.gateway:
        try:
            return await _open_gateway(address, record.certificate, tls)
        except PeerUnreachable as exc:
            failures.append(exc)
    answered = [one for one in failures[1:] if not isinstance(one, GatewayShut)]
    raise (answered or failures)[-1]


async def carry_gateway(carry: Carry, owner: PeerId) -> trio.abc.Stream:
    """Connect to a peer's gateway over the overlay.

    Raises:
        PeerUnreachable: the peer does not answer in time, or does not accept this one.
    """
    with trio.move_on_after(CONNECT_TIMEOUT_S):
        stream = await carry(owner)
        async with _given_up_unless_met(stream, "the gateway over the overlay"):
            await _await_word(stream, "over the overlay")
        return stream
    raise PeerUnreachable(f"{owner} does not answer over the overlay")


async def open_tcp(address: str, what: str) -> trio.SocketStream:
    """Connect to `address`, which errors call `what`.

    Raises:
        PeerUnreachable: nothing accepts there.
    """
    try:
        host, port = split_address(address, "")
        with trio.fail_after(CONNECT_TIMEOUT_S):
            return await trio.open_tcp_stream(host, port)
    except (OSError, ValueError, SettingsInvalid, trio.TooSlowError) as exc:
        raise PeerUnreachable(f"{what} at {address} cannot be reached: {exc}") from exc


async def _open_gateway(address: str, pin: str, tls: PeerTls) -> TlsStream:
    try:
        tcp = await open_tcp(address, "the gateway")
    except PeerUnreachable as exc:
        raise GatewayShut(str(exc)) from exc
    stream = TlsStream(tcp, tls.client_context)
    async with _given_up_unless_met(stream, f"the gateway at {address}"):
        await _meet(stream, address, pin)
    return stream


@asynccontextmanager
async def _given_up_unless_met(stream: trio.abc.Stream, what: str) -> AsyncIterator[None]:
    """Close the stream if the two did not get to know each other in time."""
    try:
        with trio.fail_after(CONNECT_TIMEOUT_S):
            yield
    except (trio.BrokenResourceError, trio.TooSlowError) as exc:
        await trio.aclose_forcefully(stream)
        raise PeerUnreachable(f"{what} does not answer: {exc!r}") from exc
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise


async def _meet(stream: TlsStream, address: str, pin: str) -> None:
    """Check who is at the other end, then wait for its word that this peer may call."""
    await stream.do_handshake()
    if pin_of(stream.peer_certificate()) != pin:
        raise PeerUnreachable(f"another peer than expected answers at {address}")
    await _await_word(stream, f"at {address}")


async def _await_word(stream: trio.abc.ReceiveStream, where: str) -> None:
    line = b""
    while not line.endswith(b"\r\n"):
        data = await stream.receive_some(MAX_ACCEPT_LINE - len(line))
        if not data or len(line) + len(data) >= MAX_ACCEPT_LINE:
            raise PeerUnreachable(f"the gateway {where} closed without accepting this peer")
        line += data
    if line != ACCEPT_LINE:
        text = line.decode("ascii", "replace").strip()
        raise PeerUnreachable(f"the gateway {where} refused this peer: {text}")
