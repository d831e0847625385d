"""The connection between a proxy and one of its workers: messages of any length, and sockets."""

import os
from collections.abc import Sequence
from typing import Generic, TypeVar

import trio
from pydantic import BaseModel, TypeAdapter, ValidationError

from overlay.errors import MalformedMessage
from overlay.handover import Handover
from proxy.workers.messages import Piece

WHOLE_BYTES = 64 * 1024
"""What is longer goes in pieces; a packet may have twice as much."""

PIECE = 24 * 1024
"""Characters; as JSON within JSON each has four bytes at the most, and most have one."""

MAX_MESSAGE = 64 * 1024 * 1024
"""Characters; the counts of 10,000 services have half of that."""

T = TypeVar("T")


class Link(Generic[T]):
    """One end; `send` may be called by several tasks, `receive` by one.

    Args:
        handover: carries the packets.
        messages: that the other end sends.
    """

    def __init__(self, handover: Handover, messages: TypeAdapter[T]) -> None:
        self._handover = handover
        self._messages = messages
        self._in_pieces = trio.Lock()
        self._pieces: list[str] = []
        self._arrived = 0

    async def send(self, message: BaseModel, sockets: Sequence[int] = ()) -> None:
        """Send a message, and copies of the descriptors `sockets`.

        Raises:
            PeerUnreachable: the other process is gone.
        """
        text = message.model_dump_json()
        if sockets or len(text.encode()) <= WHOLE_BYTES:
            await self._handover.send(message, sockets)
            return
        async with self._in_pieces:
            for at in range(0, len(text), PIECE):
                part = text[at : at + PIECE]
                await self._handover.send(Piece(text=part, last=at + PIECE >= len(text)))

    async def receive(self) -> tuple[T, list[int]] | None:
        """Return the next message and its descriptors, for the caller to close; None at the end.

        Raises:
            MalformedMessage: it cannot be read; what came with it is closed.
        """
        while (received := await self._handover.receive()) is not None:
            data, descriptors = received
            message = self._read(data, descriptors)
            if not isinstance(message, Piece):
                return message, descriptors
            self._arrived += len(message.text)
            if self._arrived > MAX_MESSAGE:
                raise MalformedMessage(f"a message of over {MAX_MESSAGE} characters")
            self._pieces.append(message.text)
            if message.last:
                text = "".join(self._pieces)
                self._pieces, self._arrived = [], 0
                return self._read(text.encode(), []), []
        return None

    def close(self) -> None:
        """Close this end."""
        self._handover.close()

    def _read(self, data: bytes, descriptors: Sequence[int]) -> T:
        try:
            return self._messages.validate_json(data)
        except ValidationError as exc:
            for descriptor in descriptors:
                os.close(descriptor)
            raise MalformedMessage(f"a worker's connection says {data[:80]!r}") from exc
