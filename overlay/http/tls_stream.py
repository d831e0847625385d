"""TLS on a socket, as a transport.

`trio.SSLStream` is made for every case, with a lock, two conflict detectors and many checkpoints
a call: for a small request that is more than all else that the proxy does. Here OpenSSL works in
memory, in one step each way,

    receive   recv ─► _incoming ─► decrypt     as much as came at once, 64 KiB at the most
    send      encrypt ─► _outgoing ─► send     64 KiB of plaintext at a time

and all waiting is left to the socket's transport, with its bounds. Only the handshake waits between
OpenSSL's steps. Afterwards none of them needs an answer of the other end: not in TLS 1.3, nor in
1.2, as OpenSSL 3 lets nobody renegotiate.

What OpenSSL has to say by itself later, such as its answer to a KeyUpdate, it also puts into
`_outgoing`. That goes with what is sent next, before which it is due (RFC 8446, section 4.6.3), and
never makes a reader wait. Who causes more of it than some thousand bytes is cut off.

An end is one only if the other end said so by a close_notify. What stops without it was cut, and a
response without a length that is cut must not pass for a whole one (RFC 9112, section 9.8).
"""

import ssl
from contextlib import suppress
from math import inf

import trio
from trio.socket import SocketType

from overlay.http.transport import SendFailed, SocketTransport, Transport, TransportStream

_RECORD_BYTES = 16 * 1024
"""The plaintext of one record (RFC 8446, section 5.1), which is what one read gives."""

_PIECE_BYTES = 64 * 1024
"""Encrypted at once; with what one read of the socket gives this bounds what is held in memory."""

_OVERHEAD_BYTES = 256
"""More than a record adds to its plaintext."""

_MAX_UNASKED_BYTES = 4 * 1024
"""What OpenSSL may have to say before anything is sent: some hundred answers to a KeyUpdate."""


class TlsStream(TransportStream):
    """One end of a TLS connection; `do_handshake` comes before everything else.

    One task may receive while another one sends. A send that is cancelled breaks the connection.

    Args:
        tcp: the connection, which this owns from now on.
        context: of this end.
        server_side: whether this end accepted it.
        server_hostname: that the other end's certificate has to have, if the context checks that.

    Attributes:
        half_closes: False: who ends one direction of TLS reads no more either.
    """

    __slots__ = (
        "_ended",
        "_incoming",
        "_left",
        "_midway",
        "_outgoing",
        "_plain",
        "_sending",
        "_session",
        "_tcp",
        "_torn",
        "half_closes",
    )

    def __init__(
        self,
        tcp: trio.SocketStream,
        context: ssl.SSLContext,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
    ) -> None:
        self._tcp = tcp
        self._plain = SocketTransport(tcp)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._session = context.wrap_bio(
            self._incoming, self._outgoing, server_side, server_hostname
        )
        self._left = b""  # decrypted, and not received yet
        self._midway = False  # OpenSSL holds part of a record
        self._ended = False
        self._sending = False
        self._torn = False  # part of what was encrypted was never sent
        self.half_closes = False

    async def do_handshake(self) -> None:
        """Agree on keys and look at the other end's certificate; the time is the caller's to bound.

        Raises:
            trio.BrokenResourceError: the two do not agree, or the connection is lost.
        """
        while not await self._shake():
            received = await self._plain.receive()
            if not received:
                raise trio.BrokenResourceError("the connection ended within TLS's handshake")
            self._incoming.write(received)
        if self._incoming.pending:
            self._left = self._decrypt() or b""

    @property
    def socket(self) -> SocketType:
        """What it goes over."""
        return self._tcp.socket

    @property
    def version(self) -> str | None:
        """Of TLS, as `TLSv1.3`; None before the handshake."""
        return self._session.version()

    @property
    def alpn(self) -> str | None:
        """The protocol that both agreed to speak."""
        return self._session.selected_alpn_protocol()

    def peer_certificate(self) -> bytes | None:
        """Return the other end's certificate in DER; None if it showed none."""
        return self._session.getpeercert(binary_form=True)

    def as_transport(self, send_timeout_s: float) -> Transport:
        """See `TransportStream`."""
        self._plain.send_timeout_s = send_timeout_s
        return self

    async def receive(self, within_s: float = inf) -> bytes | None:
        """See `Transport`."""
        if self._left:
            left, self._left = self._left, b""
            return left
        if self._ended:
            return b""
        received = await self._plain.receive(within_s)
        if received is None:
            return None
        data = self._taken(received)
        return await self._receive_rest(within_s) if data is None else data

    async def send(self, *parts: bytes) -> None:
        """See `Transport`."""
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        if len(data) <= _PIECE_BYTES:
            if data:
                await self._send(data, first=True)
            return
        whole = memoryview(data)
        for at in range(0, len(data), _PIECE_BYTES):
            await self._send(whole[at : at + _PIECE_BYTES], first=at == 0)

    def hold(self, message: bytes) -> bool:
        """See `Transport`."""
        size = len(message) + self._outgoing.pending + _OVERHEAD_BYTES
        if self._sending or self._torn or not self._plain.may_hold(size):
            return False
        try:
            self._session.write(message)
        except ssl.SSLError:
            return False  # `send` says so
        return self._plain.hold(self._outgoing.read())

    def quiet(self) -> bool:
        """See `Transport`."""
        waiting = self._left or self._midway or self._ended or self._torn
        return not waiting and self._plain.quiet()

    def lost(self) -> bool:
        """See `Transport`."""
        return self._torn or self._plain.lost()

    def probe(self) -> None:
        """See `Transport`."""
        self._plain.probe()

    async def end(self) -> None:
        """See `Transport`: both directions end together, by `aclose`."""

    async def aclose(self) -> None:
        """Say that this is the end, and close; if it is cancelled, the other end sees a cut."""
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
            if not (self._sending or self._torn):
                with suppress(ssl.SSLError):  # it wants to wait for the other end to say so, too
                    self._session.unwrap()
                with suppress(SendFailed):
                    await self._flush()
        finally:
            await self._plain.aclose()

    async def abort(self, *, reset: bool = False) -> None:
        """See `Transport`: without TLS's end mark the other end sees a cut in any case."""
        await self._plain.abort(reset=reset)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """See `trio.abc.SendStream`."""
        await self.send(bytes(data))

    async def wait_send_all_might_not_block(self) -> None:
        """Return; `send_all` waits by itself."""
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """See `trio.abc.ReceiveStream`."""
        data = await self.receive() or b""
        if max_bytes is not None and len(data) > max_bytes:
            data, self._left = data[:max_bytes], data[max_bytes:]
        return data

    async def _shake(self) -> bool:
        """Go on with the handshake as far as it goes; return whether it is done."""
        try:
            self._session.do_handshake()
        except ssl.SSLWantReadError:
            done = False
        except ssl.SSLError as exc:
            with suppress(SendFailed):
                await self._flush()  # what is wrong, for the other end
            raise trio.BrokenResourceError("the two do not agree on TLS") from exc
        else:
            done = True
        await self._flush()
        return done

    async def _receive_rest(self, within_s: float) -> bytes | None:
        """Wait for the rest of a record, which gets the time of a wait of its own."""
        with trio.move_on_after(within_s):
            data = None
            while data is None:
                data = self._taken(await self._plain.receive() or b"")
            return data
        return None

    def _taken(self, received: bytes) -> bytes | None:
        """Return what came on the socket, decrypted."""
        if not received:
            raise trio.BrokenResourceError("the connection was cut: it ended without saying so")
        self._incoming.write(received)
        return self._decrypt()

    def _decrypt(self) -> bytes | None:
        """Return what came, b"" at the end, None if that is no whole record."""
        pieces = []
        # No plaintext is longer than its record, so for a small one little needs to be allocated;
        # but of a record that came in part before, nobody knows how long it is.
        most = _RECORD_BYTES if self._midway else min(self._incoming.pending, _RECORD_BYTES)
        self._midway = False
        try:
            while piece := self._session.read(most):
                pieces.append(piece)
                if not self._incoming.pending:
                    break
                most = _RECORD_BYTES
            else:
                self._ended = True
        except ssl.SSLWantReadError:
            self._midway = True
        except ssl.SSLZeroReturnError:
            self._ended = True
        except ssl.SSLError as exc:
            raise trio.BrokenResourceError("TLS was broken off") from exc
        if self._outgoing.pending > _MAX_UNASKED_BYTES:
            raise trio.BrokenResourceError("the other end asks for more than it reads")
        if not pieces:
            return b"" if self._ended else None
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def _send(self, data: bytes | memoryview, *, first: bool) -> None:
        """Send some; `first` says that nothing of this call went before."""
        if self._sending:
            raise trio.BusyResourceError("another task is sending")
        if self._torn:
            raise SendFailed(0 if first else None)
        try:
            self._session.write(data)
            await self._flush()
        except ssl.SSLError as exc:
            raise SendFailed(0 if first else None) from exc
        except SendFailed as exc:
            raise SendFailed(0 if first and exc.sent == 0 else None) from exc

    async def _flush(self) -> None:
        """Send what is encrypted, and what is added to it meanwhile."""
        self._sending = self._torn = True
        try:
            while self._outgoing.pending:
                await self._plain.send(self._outgoing.read())
            self._torn = False
        finally:
            self._sending = False
