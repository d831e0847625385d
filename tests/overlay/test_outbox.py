import trio
from trio.testing import wait_all_tasks_blocked

from overlay.outbox import MAX_BYTES, MAX_FRAMES, Outbox


async def test_frames_come_out_in_order_and_the_end_last() -> None:
    outbox = Outbox()
    assert outbox.post(b"one")
    assert outbox.post(b"two")
    outbox.close()
    assert [await outbox.take(), await outbox.take(), await outbox.take()] == [b"one", b"two", None]


async def test_a_reader_waits_for_the_next_frame() -> None:
    outbox, taken = Outbox(), []

    async def read() -> None:
        taken.append(await outbox.take())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await wait_all_tasks_blocked()
        assert not taken
        outbox.post(b"news")
    assert taken == [b"news"]


def test_a_peer_that_reads_nothing_is_too_slow_by_number_and_by_bytes() -> None:
    many, large = Outbox(), Outbox()
    assert all(many.post(b"x") for _ in range(MAX_FRAMES))
    assert not many.post(b"x")
    assert large.post(bytes(MAX_BYTES))
    assert not large.post(b"x")


def test_what_is_posted_to_a_closed_one_is_dropped() -> None:
    outbox = Outbox()
    outbox.close()
    assert outbox.post(b"late")
