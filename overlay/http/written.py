"""Fields that are sent again and again, with the bytes that they are on the wire.

Most of what a proxy writes into a head it wrote before: what its clients and servers say is the
same each time, and remembered (`remembering.py`). Only a few fields, as a request's id, are new.
HTTP/2 looks at the fields alone.
"""

from collections.abc import Iterable, Sequence

Field = tuple[bytes, bytes]

_line_of = b"%b: %b\r\n".__mod__


class Written(list[Field]):
    """Fields of which the first ones are written down already; more may be added behind them.

    Args:
        fields: what is written down; of another `Written`, as far as that was.

    Attributes:
        known: how many are written down; nobody may change these.
        lines: the bytes of those.
        begun: the last head that began with them; all that are made of one another share it.

    Raises:
        ValueError: one of them contains a line end.
    """

    __slots__ = ("begun", "known", "lines")

    known: int
    lines: bytes
    begun: "_Begun"

    def __init__(self, fields: Sequence[Field]) -> None:
        list.__init__(self, fields)
        if type(fields) is Written:
            self.known, self.lines, self.begun = fields.known, fields.lines, fields.begun
        else:
            self.known, self.lines, self.begun = len(fields), lines_of(fields), _Begun()


class _Begun:
    """The first bytes of a head, and what they were made of."""

    __slots__ = ("made_of", "start")

    def __init__(self) -> None:
        self.made_of: tuple[bytes, tuple[object, ...], Sequence[Field]] | None = None
        self.start = b""


def lines_of(fields: Iterable[Field]) -> bytes:
    """Return fields as the bytes that they are in a head.

    Raises:
        ValueError: one of them contains a line end.
    """
    lines = list(map(_line_of, fields))
    text = b"".join(lines)
    if text.count(b"\n") != len(lines) or text.count(b"\r") != len(lines):
        raise ValueError("a field to be sent contains a line end")
    return text


def head_of(
    form: bytes, values: tuple[object, ...], headers: Sequence[Field], more: Sequence[Field]
) -> bytes:
    """Return a head as bytes, the empty line included.

    Args:
        form: of the first line, with places for `values`.
        values: what is in the first line.
        headers: the fields.
        more: fields besides, which are likely to be the same each time; nobody may change them.

    Raises:
        ValueError: something in it contains a line end.
    """
    if type(headers) is not Written:
        return _start(form, values, lines_of((*headers, *more))) + b"\r\n"
    begun, made_of = headers.begun, (form, values, more)
    if begun.made_of != made_of:
        begun.start = _start(form, values, headers.lines + lines_of(more))
        begun.made_of = made_of
    added = headers[headers.known :]
    return b"%b%b\r\n" % (begun.start, lines_of(added) if added else b"")


def _start(form: bytes, values: tuple[object, ...], lines: bytes) -> bytes:
    first_line = form % values
    if b"\n" in first_line or b"\r" in first_line:
        raise ValueError("a first line to be sent contains a line end")
    return b"%b\r\n%b" % (first_line, lines)
