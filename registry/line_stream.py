"""A POST of JSON whose answer may be an endless sequence of lines, as etcd answers a watch.

It is h11 on a trio stream. httpx would read such an answer through nested async generators, which
it leaves to the garbage collector when the reader stops early, and trio rightly warns of that.
"""

import json
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import h11
import trio

from overlay.errors import PeerUnreachable

RECEIVE_SIZE = 64 * 1024

MAX_LINE = 64 * 1024 * 1024
"""etcd sends up to 1,000 changes in a line; a change has some KiB, and 128 KiB at the most."""


class LineStream:
    """The answer; `status` first, then line after line."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._http = h11.Connection(h11.CLIENT)
        self._buffer = bytearray()
        self.status = 0

    async def send(self, target: str, host: str, body: bytes, headers: Mapping[str, str]) -> None:
        """Send the request and wait for the answer's head."""
        fields = {"Host": host, "Content-Length": str(len(body)), "Connection": "close"}
        request = h11.Request(
            method="POST", target=target, headers=[*{**fields, **headers}.items()]
        )
        parts = (request, h11.Data(data=body), h11.EndOfMessage())
        await self._stream.send_all(b"".join(self._http.send(part) or b"" for part in parts))
        head = await self._event()
        while isinstance(head, h11.InformationalResponse):
            head = await self._event()
        if not isinstance(head, h11.Response):
            raise PeerUnreachable("the connection was closed instead of answered")
        self.status = head.status_code

    async def receive_line(self) -> bytes | None:
        """Return the next line without its end, or None at the end of the answer."""
        searched = 0
        while (end := self._buffer.find(b"\n", searched)) < 0:
            searched = len(self._buffer)
            if searched > MAX_LINE:
                raise PeerUnreachable(f"a line of over {MAX_LINE} bytes")
            event = await self._event()
            if not isinstance(event, h11.Data):
                rest, self._buffer = bytes(self._buffer), bytearray()
                return rest or None
            self._buffer += event.data
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line

    async def receive_all(self) -> bytes:
        """Return the whole answer."""
        while isinstance(event := await self._event(), h11.Data):
            self._buffer += event.data
            if len(self._buffer) > MAX_LINE:
                raise PeerUnreachable(f"an answer of over {MAX_LINE} bytes")
        return bytes(self._buffer)

    async def _event(self) -> object:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            self._http.receive_data(bytes(await self._stream.receive_some(RECEIVE_SIZE)))
        return event


@asynccontextmanager
async def open_line_stream(
    url: str,
    body: Mapping[str, Any],
    headers: Mapping[str, str],
    *,
    tls: ssl.SSLContext | None,
    timeout_s: float,
) -> AsyncIterator[LineStream]:
    """POST `body` as JSON to `url` and yield the answer once its head is here.

    Raises:
        PeerUnreachable: there is no answer within `timeout_s` seconds, or it is cut.
    """
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or (443 if tls else 80)
    stream: trio.abc.Stream | None = None
    try:
        with trio.fail_after(timeout_s):
            stream = await trio.open_tcp_stream(host, port)
            if tls is not None:
                stream = trio.SSLStream(stream, tls, server_hostname=host, https_compatible=True)
            lines = LineStream(stream)
            await lines.send(parts.path, parts.netloc, json.dumps(body).encode(), headers)
        yield lines
    except trio.TooSlowError as exc:
        raise PeerUnreachable(f"no answer within {timeout_s:g} s") from exc
    except (OSError, trio.BrokenResourceError, h11.RemoteProtocolError) as exc:
        reason = exc.__cause__ if isinstance(exc, trio.BrokenResourceError) else exc
        raise PeerUnreachable(str(reason) or type(exc).__name__) from exc
    finally:
        if stream is not None:
            await trio.aclose_forcefully(stream)
