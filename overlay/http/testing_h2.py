"""The other end of an HTTP/2 connection for tests, driven by h2 itself and by raw frames."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import trio
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, Event, ResponseReceived, StreamEnded, TrailersReceived

from overlay.http.h2_frames import PREFACE, Frame, Splitter
from overlay.http.head import Field

E = TypeVar("E", bound=Event)


def get_fields(
    path: bytes = b"/", authority: bytes = b"localhost", method: bytes = b"GET"
) -> list[Field]:
    """Return the fields of a small request."""
    pseudo = [(b":method", method), (b":scheme", b"http"), (b":path", path)]
    return [*pseudo, (b":authority", authority)]


class Http2Wire:
    """One end of a connection; every event that came is kept in `events`, frames in `frames`.

    Args:
        stream: to the other end.
        client: this end opens streams.
    """

    def __init__(self, stream: trio.abc.Stream, *, client: bool = True) -> None:
        self.stream = stream
        self.h2 = H2Connection(H2Configuration(client_side=client, header_encoding=None))
        self.events: list[Event] = []
        self.frames: list[Frame] = []
        self.auto_credit = True
        self._splitter = Splitter(b"" if client else PREFACE)

    async def start(self) -> None:
        """Say what comes first."""
        self.h2.initiate_connection()
        await self.flush()

    async def flush(self) -> None:
        """Send what h2 wants to send."""
        data = self.h2.data_to_send()
        if data:
            await self.stream.send_all(data)

    async def send_raw(self, data: bytes) -> None:
        """Send bytes past h2."""
        await self.stream.send_all(data)

    async def request(
        self,
        fields: Sequence[Field],
        body: bytes = b"",
        *,
        end: bool = True,
        trailers: Sequence[Field] = (),
    ) -> int:
        """Send a request, with its body if it fits the windows, and return its stream."""
        number = self.h2.get_next_available_stream_id()
        whole = end and not trailers
        self.h2.send_headers(number, fields, end_stream=whole and not body)
        if body:
            await self.data(number, body, end=whole)
        if trailers:
            self.h2.send_headers(number, trailers, end_stream=True)
        await self.flush()
        return number

    async def data(self, number: int, body: bytes, *, end: bool = False) -> None:
        """Send a part of a body, which has to fit the windows."""
        size = self.h2.max_outbound_frame_size
        pieces = [body[at : at + size] for at in range(0, len(body), size)] or [b""]
        for piece in pieces:
            self.h2.send_data(number, piece, end_stream=end and piece is pieces[-1])
        await self.flush()

    async def receive(self) -> list[Event]:
        """Return what came next; EOFError at the end."""
        data = bytes(await self.stream.receive_some())
        if not data:
            raise EOFError
        self.frames += self._splitter.feed(data)
        events = self.h2.receive_data(data)
        self.events += events
        for event in events:
            if isinstance(event, DataReceived) and self.auto_credit:
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        await self.flush()
        return events

    async def until(self, kind: type[E], number: int | None = None) -> E:
        """Return the first event of a kind, of one stream if its number is given."""
        while True:
            for event in self.events:
                if isinstance(event, kind) and number in {None, getattr(event, "stream_id", None)}:
                    return event
            await self.receive()

    async def until_true(self, holds: Callable[[], bool]) -> None:
        """Receive until something holds."""
        while not holds():
            await self.receive()

    async def ended(self) -> None:
        """Receive until the other end closes."""
        try:
            while True:
                await self.receive()
        except (EOFError, trio.BrokenResourceError):
            return

    async def answer(self, number: int) -> tuple[int, list[Field], bytes, list[Field]]:
        """Return a stream's status, fields, body and trailers, once it has ended."""
        await self.until(StreamEnded, number)
        head = await self.until(ResponseReceived, number)
        fields = [(bytes(name), bytes(value)) for name, value in head.headers]
        trailers = [
            (bytes(name), bytes(value))
            for event in self.events
            if isinstance(event, TrailersReceived) and event.stream_id == number
            for name, value in event.headers
        ]
        return int(fields[0][1]), fields[1:], self.body(number), trailers

    def body(self, number: int) -> bytes:
        """Return what has come of a body."""
        return b"".join(
            event.data
            for event in self.events
            if isinstance(event, DataReceived) and event.stream_id == number
        )
