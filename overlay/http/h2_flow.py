"""How much the other end of an HTTP/2 connection may send before it has to wait (RFC 9113 §5.2).

Each stream has a window, and so has the connection. The stream's is opened again as its reader
takes bytes, so a reader that is slow holds back its own stream and keeps at most one window in
memory. The connection's is opened again as bytes *arrive*: opened as they are taken, one slow
reader would keep all of it, and every other stream would stand still behind it.

So the memory of one connection is bounded by its streams: `MAX_STREAMS` × `STREAM_WINDOW`, and the
connection's window bounds what is on its way.

An update costs its receiver a frame, so the window is opened when half of it is due.
"""

STREAM_WINDOW = 128 * 1024
"""Bytes of one stream that may wait for its reader. Over 10 ms it lets 13 MB/s through."""

CONNECTION_WINDOW = 1024 * 1024
"""Bytes on their way for all streams; eight can send at full speed at once."""

MAX_STREAMS = 100
"""Requests under way on one connection (RFC 9113 §6.5.2 asks for 100 at least): 12.5 MiB."""

INITIAL_WINDOW = 65_535
"""Every window's size before anybody said anything."""


class InboundWindow:
    """The window of one stream, or of the connection.

    Attributes:
        size: how much may have come that was not taken yet.
        open: how much the other end may still send.
    """

    __slots__ = ("_due", "open", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self.open = size
        self._due = 0

    def arrived(self, count: int) -> None:
        """Take note that the other end sent `count` bytes."""
        self.open -= count

    def taken(self, count: int) -> int:
        """Take note that a reader has `count` bytes; return by how much to open the window now."""
        self._due += count
        if self._due * 2 < self.size:
            return 0
        opened, self._due = self._due, 0
        self.open += opened
        return opened
