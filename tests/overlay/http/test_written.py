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
    assert again == [*known, *added]
    assert written == known
    whole = [*known, *more, *added]
    for values in ((b"GET", b"/"), (b"GET", b"/"), (b"PUT", b"/"), (b"PUT", b"/x")):
        as_said = head_of(b"%b %b HTTP/1.1", values, whole, ())
        assert head_of(b"%b %b HTTP/1.1", values, again, more) == as_said
        assert head_of(b"%b %b HTTP/1.1", values, Written(again), more) == as_said
    assert head_of(b"x", (), again, ()) == head_of(b"x", (), [*known, *added], ())


@pytest.mark.parametrize("bad", [(b"a", b"b\r\nc: d"), (b"a\n", b""), (b"a", b"\r")])
def test_a_line_end_is_found_wherever_it_is(bad: tuple[bytes, bytes]) -> None:
    good = Written([(b"a", b"b")])
    with pytest.raises(ValueError, match="line end"):
        Written([bad])
    with pytest.raises(ValueError, match="line end"):
        head_of(b"x", (), good, [bad])
    with pytest.raises(ValueError, match="line end"):
        head_of(b"x%b", (b"\n",), good, ())
    good.append(bad)
    with pytest.raises(ValueError, match="line end"):
        head_of(b"x", (), good, ())
    with pytest.raises(ValueError, match="line end"):
        head_of(b"x%b", (b"\r\ny",), [], ())
