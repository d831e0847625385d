import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.http.written import Written, head_of

TEXT = st.text(st.characters(codec="ascii", exclude_characters="\r\n")).map(str.encode)
FIELDS = st.lists(st.tuples(TEXT, TEXT))


@given(FIELDS, FIELDS, FIELDS)
def test_a_head_is_the_same_however_much_of_it_was_written_before(
    known: list[tuple[bytes, bytes]],
    added: list[tuple[bytes, bytes]],
    more: list[tuple[bytes, bytes]],
) -> None:
    written = Written(known)
    again = Written(written)
    again += added
    whole = [*known, *added, *more]
    assert [*again, *more] == whole
    assert head_of(b"GET / HTTP/1.1", again, more) == head_of(b"GET / HTTP/1.1", whole, ())
    assert written == known
    assert head_of(b"x", Written(again), more) == head_of(b"x", whole, ())


@pytest.mark.parametrize("bad", [(b"a", b"b\r\nc: d"), (b"a\n", b""), (b"a", b"\r")])
def test_a_line_end_is_found_wherever_it_is(bad: tuple[bytes, bytes]) -> None:
    good = Written([(b"a", b"b")])
    with pytest.raises(ValueError, match="line end"):
        Written([bad])
    with pytest.raises(ValueError, match="line end"):
        head_of(b"x", good, [bad])
    good.append(bad)
    with pytest.raises(ValueError, match="line end"):
        head_of(b"x", good, ())
    with pytest.raises(ValueError, match="line end"):
        head_of(b"x\r\ny", [], ())
