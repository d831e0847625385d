"""What waits to be sent to one peer: frames in order, bounded in number and in bytes."""

from collections import deque

import trio

MAX_FRAMES = 4096
"""A whole table of some thousand peers is some hundred frames; the rest is news."""

MAX_BYTES = 32 * 1024 * 1024
"""A table of 4,000 peers with two instances each is 12 MB as text. A peer that leaves more than
this unread is cut, and compares tables when it comes back."""


class Outbox:
    """A queue with one reader; writers never wait."""

    def __init__(self) -> None:
        self._frames: deque[bytes] = deque()
        self._bytes = 0
        self._closed = False
        self._news = trio.Event()

    def post(self, frame: bytes) -> bool:
        """Queue a frame; False if the peer is too slow for it, True also once it is closed."""
        if self._closed:
            return True
        if len(self._frames) >= MAX_FRAMES or self._bytes + len(frame) > MAX_BYTES:
            return False
        self._frames.append(frame)
        self._bytes += len(frame)
        self._news.set()
        return True

    def close(self) -> None:
        """Take nothing more; what is queued can still be read."""
        self._closed = True
        self._news.set()

    async def take(self) -> bytes | None:
        """Return the next frame, or None once it is closed and empty."""
        while not self._frames:
            if self._closed:
                return None
            self._news = trio.Event()
            await self._news.wait()
        frame = self._frames.popleft()
        self._bytes -= len(frame)
        return frame
