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

    Raises:
        ValueError: one of them contains a line end.
    """

    __slots__ = ("known", "lines")

    known: int
    lines: bytes

    def __init__(self, fields: Sequence[Field]) -> None:
        list.__init__(self, fields)
        if type(fields) is Written:
            self.known, self.lines = fields.known, fields.lines
        else:
            self.known, self.lines = len(fields), lines_of(fields)


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


def head_of(first_line: bytes, headers: Sequence[Field], more: Sequence[Field]) -> bytes:
    """Return a head as bytes, the empty line included; `more` are the last fields.

    Raises:
        ValueError: something in it contains a line end.
    """
    if b"\n" in first_line or b"\r" in first_line:
        raise ValueError("a first line to be sent contains a line end")
    if type(headers) is not Written:
        return b"%b\r\n%b\r\n" % (first_line, lines_of((*headers, *more)))
    added = lines_of((*headers[headers.known :], *more))
    return b"%b\r\n%b%b\r\n" % (first_line, headers.lines, added)
