"""The end of a connection whose other end may still be sending.

A socket that is closed with unread bytes resets the connection, and the reset destroys what was
sent last and not yet read. So the last answer is followed by the end of our direction, and what
still comes is read and thrown away for a while.
"""

import trio

from overlay.http.transport import Transport

LINGER_S = 2.0
"""How long, in seconds, the other end may go on sending before it reads what we said last."""

_LINGER_BYTES = 1024 * 1024
"""How much of it."""


async def linger(transport: Transport, within_s: float = LINGER_S) -> None:
    """End our direction and read on for a while, in seconds."""
    with trio.move_on_after(within_s):
        try:
            await transport.end()
            left = _LINGER_BYTES
            while left > 0:
                data = await transport.receive()
                if not data:
                    return
                left -= len(data)
        except trio.BrokenResourceError:
            return
