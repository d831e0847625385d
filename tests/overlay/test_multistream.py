import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from overlay.errors import MalformedMessage, ProtocolRefused
from overlay.multistream import ClosedEarly, NotMultistream, answer, offer

GREETING = b"\x13/multistream/1.0.0\n"
TIMEOUT_S = 5.0


class InMemory:
    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream

    async def read(self, n: int) -> bytes:
        return bytes(await self._stream.receive_some(n))

    async def write(self, data: bytes) -> None:
        await self._stream.send_all(data)


async def agree(wanted: str, known: list[str]) -> str:
    near, far = trio.testing.memory_stream_pair()
    agreed = ""

    async def listen() -> None:
        nonlocal agreed
        agreed = await answer(InMemory(far), known)

    with trio.fail_after(TIMEOUT_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            await offer(InMemory(near), wanted)
    return agreed


async def test_both_ends_agree_on_what_the_dialler_asks_for() -> None:
    assert await agree("/b", ["/a", "/b"]) == "/b"


async def offered(answered: bytes) -> None:
    near, far = trio.testing.memory_stream_pair()
    with trio.fail_after(TIMEOUT_S):
        await far.send_all(answered)
        await far.send_eof()
        await offer(InMemory(near), "/wanted")


async def test_what_the_other_end_does_not_speak_is_refused() -> None:
    with pytest.raises(ProtocolRefused, match="/wanted"):
        await offered(GREETING + b"\x03na\n")


@pytest.mark.parametrize(
    "answered", [GREETING, GREETING + b"\x07/other\n", GREETING + b"\xff\xff", GREETING + b"\x05na"]
)
async def test_an_answer_that_makes_no_sense_is_malformed(answered: bytes) -> None:
    with pytest.raises(MalformedMessage):
        await offered(answered)


async def test_a_close_before_the_greeting_is_told_from_noise() -> None:
    with pytest.raises(ClosedEarly):
        await offered(b"")
    with pytest.raises(NotMultistream):
        await offered(GREETING[:5])


@given(kept=st.integers(0, len(GREETING) - 1), noise=st.integers(0, 255))
def test_the_first_wrong_byte_of_a_greeting_is_enough(kept: int, noise: int) -> None:
    if noise == GREETING[kept]:
        return

    async def meet() -> None:
        near, far = trio.testing.memory_stream_pair()
        with trio.fail_after(TIMEOUT_S):
            await far.send_all(GREETING[:kept] + bytes([noise]))  # and then silence
            await answer(InMemory(near), ["/a"])

    with pytest.raises(NotMultistream):
        trio.run(meet)


async def test_a_dialler_that_asks_for_ever_is_given_up() -> None:
    near, far = trio.testing.memory_stream_pair()
    with trio.fail_after(TIMEOUT_S):
        await far.send_all(GREETING + b"\x03/x\n" * 100)
        with pytest.raises(ProtocolRefused):
            await answer(InMemory(near), ["/a"])
