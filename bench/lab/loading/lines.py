"""Lines of JSON between a load and its processes."""

import json
from typing import Any

import trio

MOST_LINE_BYTES = 64 * 1024 * 1024
"""A job with 100,000 recorded requests is long; the other end is this program's own."""


class Lines:
    """Reads lines of JSON from a stream."""

    def __init__(self, stream: trio.abc.ReceiveStream) -> None:
        self._stream = stream
        self._held = bytearray()

    async def next(self) -> dict[str, Any] | None:
        """Return what the next line says; None when no more come."""
        seen = 0
        while (end := self._held.find(b"\n", seen)) < 0:
            seen = len(self._held)
            data = await self._stream.receive_some()
            if not data or seen > MOST_LINE_BYTES:
                return None
            self._held += data
        line = bytes(self._held[:end])
        del self._held[: end + 1]
        said: dict[str, Any] = json.loads(line)
        return said


def line(what: dict[str, Any]) -> bytes:
    """Return what `Lines` reads."""
    return json.dumps(what).encode() + b"\n"
