"""How frames are cut for the system, which wakes their reader for each piece."""

from hypothesis import given
from hypothesis import strategies as st

from myxo.mapping.frames import SMALL_BYTES, Frame, Kind, encode, in_few


def test_a_chunk_of_small_items_is_written_in_one_piece_with_what_goes_before() -> None:
    frames = [Frame(Kind.BEGIN, parts=[b"digest"]), Frame(Kind.CHUNK, 1, 0, [bytes(150_000)])]
    pieces = [piece for frame in frames for piece in encode(frame)]
    assert in_few(pieces) == [b"".join(pieces)]


def test_what_is_large_is_not_copied() -> None:
    large = bytearray(SMALL_BYTES + 1)
    pieces = in_few([b"head", large, b"", b"tail"])
    assert [len(piece) for piece in pieces] == [4, SMALL_BYTES + 1, 4]
    assert pieces[1] is large


@given(st.lists(st.integers(0, 3 * SMALL_BYTES // 2), max_size=5))
def test_the_bytes_stay_the_same(sizes: list[int]) -> None:
    pieces = [bytes([at]) * size for at, size in enumerate(sizes)]
    assert b"".join(in_few(pieces)) == b"".join(pieces)
