import pytest
import trio
import trio.testing

from overlay.datagram_end import LINGER_S, MAX_DATAGRAM_BYTES, DatagramEnd, open_datagrams
from overlay.errors import PeerUnreachable


async def bound() -> tuple[trio.socket.SocketType, str]:
    sock = trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM)
    await sock.bind(("127.0.0.1", 0))
    return sock, f"127.0.0.1:{sock.getsockname()[1]}"


async def met() -> tuple[DatagramEnd, trio.socket.SocketType, tuple[str, int]]:
    """Return an end, its other side, and where the end is."""
    other, address = await bound()
    end = await open_datagrams(address, "the instance")
    await end.send(b"hello")
    data, sender = await other.recvfrom(100)
    assert data == b"hello"
    return end, other, sender


async def test_datagrams_go_both_ways_empty_ones_too() -> None:
    end, other, sender = await met()
    with other:
        for data in (b"one", b""):
            await other.sendto(data, sender)
            with trio.fail_after(60):
                assert await end.receive() == data
            await end.send(data)
            assert await other.recv(100) == data
        await end.aclose()


async def test_a_port_that_nobody_holds_any_more_is_a_loss() -> None:
    end, other, _ = await met()
    other.close()
    await end.send(b"x")
    with trio.fail_after(60), pytest.raises(trio.BrokenResourceError):
        await end.receive()
    await end.cut()


async def test_a_piece_of_a_stream_that_fits_no_datagram_goes_in_two() -> None:
    end, other, _ = await met()
    with other, trio.fail_after(60):
        await end.send(b"x" * (MAX_DATAGRAM_BYTES + 1))
        assert [len(await other.recv(70_000)) for _ in range(2)] == [MAX_DATAGRAM_BYTES, 1]
        await end.aclose()


async def test_answers_may_come_for_a_while_after_the_end(
    autojump_clock: trio.testing.MockClock,
) -> None:
    autojump_clock.autojump_threshold = 0.05  # what the sockets carry is there by then
    end, other, sender = await met()
    with other:
        await end.finish()
        began = trio.current_time()
        await trio.sleep(LINGER_S / 2)
        await other.sendto(b"late", sender)
        assert await end.receive() == b"late"
        assert await end.receive() is None
        assert trio.current_time() - began == pytest.approx(LINGER_S * 1.5)
        await end.aclose()


async def test_what_is_no_address_is_unreachable() -> None:
    with pytest.raises(PeerUnreachable, match="the instance at nowhere"):
        await open_datagrams("nowhere", "the instance")
