from hypothesis import given
from hypothesis import strategies as st

from allocator.images.disk import MARGIN_BYTES, Fetched, lack_of_room, to_evict
from overlay.names import Digest

A, B, C = (Digest(name) for name in "abc")
HELD = [Fetched(A, 10, 1.0), Fetched(B, 10, 2.0), Fetched(C, 10, 3.0)]


def test_nothing_goes_without_a_bound_or_within_it() -> None:
    assert to_evict(HELD, bound_bytes=0, coming_bytes=99, in_use=(), registered=()) == []
    assert to_evict(HELD, bound_bytes=30, in_use=(), registered=()) == []


def test_what_was_used_least_lately_goes_first() -> None:
    assert to_evict(HELD, bound_bytes=20, in_use=(), registered=()) == [A]
    assert to_evict(HELD, bound_bytes=30, coming_bytes=15, in_use=(), registered=()) == [A, B]


def test_images_of_registered_services_go_after_the_others() -> None:
    assert to_evict(HELD, bound_bytes=20, in_use=(), registered=[A]) == [B]


def test_what_is_in_use_stays_whatever_the_bound_is() -> None:
    assert to_evict(HELD, bound_bytes=1, in_use=[A, C], registered=()) == [B]


@given(
    st.lists(st.tuples(st.integers(0, 50), st.floats(0, 100)), max_size=8),
    st.integers(1, 200),
    st.integers(0, 100),
    st.sets(st.integers(0, 7)),
)
def test_no_more_goes_than_is_needed(
    sizes: list[tuple[int, float]], bound: int, coming: int, used: set[int]
) -> None:
    held = [Fetched(Digest(str(n)), size, at) for n, (size, at) in enumerate(sizes)]
    in_use = {Digest(str(n)) for n in used}
    gone = to_evict(held, bound_bytes=bound, coming_bytes=coming, in_use=in_use, registered=())
    left = [each for each in held if each.digest not in gone]
    total = sum(each.size_bytes for each in left) + coming
    assert not in_use & set(gone)
    assert total <= bound or all(each.digest in in_use for each in left)
    if gone:
        last = next(each for each in held if each.digest == gone[-1])
        assert total + last.size_bytes > bound


def test_a_full_disk_is_said_to_be_full_and_what_can_be_done() -> None:
    assert lack_of_room(MARGIN_BYTES + 10, 10) == ""
    assert "remove images" in lack_of_room(MARGIN_BYTES + 10, 11)
