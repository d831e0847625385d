"""multistream-select 1.0.0: how two libp2p peers agree on what a stream speaks.

Each line goes as a one-byte varint of its length, the text and a newline. Both ends greet; the
dialler names a protocol and the listener repeats it, or says `na`. The dialler here sends its
greeting and its only choice together, which costs one round trip instead of two, and the greeting
is checked byte by byte as it arrives: behind another passphrase it is noise from its first bytes,
and would otherwise be waited for as a long line that never ends.

Source: https://github.com/multiformats/multistream-select
"""

from collections.abc import Collection
from typing import Protocol

from overlay.errors import MalformedMessage, ProtocolRefused

_REFUSAL = "na"

GREETING_BYTES = b"\x13/multistream/1.0.0\n"
"""The first bytes that either end sends."""

_MAX_LINE_BYTES = 127
"""Of the lines that are read here; one more would make the length's varint two bytes long."""

_MAX_TRIES = 16
"""Protocols that a dialler may ask for on one stream before it is given up."""


class Channel(Protocol):
    """The bytes that the agreement is made over."""

    async def read(self, n: int) -> bytes:
        """Return 1 to `n` bytes, or none once the other end has closed."""

    async def write(self, data: bytes) -> None:
        """Send `data`."""


class ClosedEarly(MalformedMessage):
    """The other end closed before it said anything."""


class NotMultistream(MalformedMessage):
    """The other end's first bytes are no greeting."""


async def offer(channel: Channel, protocol: str) -> None:
    """Return once the other end agrees to speak `protocol`.

    Raises:
        ProtocolRefused: it does not speak it.
        ClosedEarly, NotMultistream: it does not speak multistream-select, or not in the clear.
        MalformedMessage: its answer makes no sense.
    """
    await propose(channel, protocol)
    await read_answer(channel, protocol)


async def propose(channel: Channel, protocol: str) -> None:
    """Send an offer and leave the answer to `read_answer`: what comes next can follow at once."""
    await channel.write(GREETING_BYTES + _line(protocol))


async def read_answer(channel: Channel, protocol: str) -> None:
    """Return once the other end agrees to what was proposed.

    Raises:
        ProtocolRefused, ClosedEarly, NotMultistream, MalformedMessage: as `offer`.
    """
    await _read_greeting(channel)
    answer = await _read_line(channel)
    if answer == _REFUSAL:
        raise ProtocolRefused(f"it does not speak {protocol}")
    if answer != protocol:
        raise MalformedMessage(f"asked for {protocol} it answered {answer!r}")


async def answer(channel: Channel, known: Collection[str]) -> str:
    """Return the first protocol of `known` that the other end asks for.

    Raises:
        ProtocolRefused: it asked for `_MAX_TRIES` others.
        ClosedEarly, NotMultistream, MalformedMessage: as `offer`.
    """
    await channel.write(GREETING_BYTES)
    await _read_greeting(channel)
    for _ in range(_MAX_TRIES):
        wanted = await _read_line(channel)
        if wanted in known:
            await channel.write(_line(wanted))
            return wanted
        await channel.write(_line(_REFUSAL))
    raise ProtocolRefused(f"it asked for {_MAX_TRIES} protocols, none of them known here")


async def decline(channel: Channel) -> None:
    """Say no to the first protocol that the other end asks for, whatever it is.

    Raises:
        ClosedEarly, NotMultistream, MalformedMessage: as `offer`.
    """
    await channel.write(GREETING_BYTES)
    await _read_greeting(channel)
    await _read_line(channel)
    await channel.write(_line(_REFUSAL))


def _line(text: str) -> bytes:
    data = text.encode() + b"\n"
    if len(data) > _MAX_LINE_BYTES:
        raise ValueError(f"the protocol id {text!r} is over {_MAX_LINE_BYTES - 1} bytes")
    return bytes([len(data)]) + data


async def _read_greeting(channel: Channel) -> None:
    for at, expected in enumerate(GREETING_BYTES):
        byte = await channel.read(1)
        if not byte and at == 0:
            raise ClosedEarly("it closed the connection before greeting")
        if byte != bytes([expected]):
            raise NotMultistream("its first bytes are no multistream greeting")


async def _read_line(channel: Channel) -> str:
    size = (await _read_exactly(channel, 1))[0]
    if not 0 < size <= _MAX_LINE_BYTES:
        raise MalformedMessage(f"it sent a line of {size} bytes or more")
    line = await _read_exactly(channel, size)
    try:
        return line.decode().removesuffix("\n")
    except UnicodeDecodeError as exc:
        raise MalformedMessage("it sent a line that is no text") from exc


async def _read_exactly(channel: Channel, n: int) -> bytes:
    data = b""
    while len(data) < n:
        more = await channel.read(n - len(data))
        if not more:
            raise MalformedMessage("it closed the connection while agreeing on a protocol")
        data += more
    return data
