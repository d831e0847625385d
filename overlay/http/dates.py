"""The Date field, which every answer has (RFC 9110 §6.6.1), made anew once a second."""

from email.utils import formatdate
from time import time

from overlay.http.head import Field


class _Dates:
    """Remembers the field of this second."""

    __slots__ = ("_field", "_second")

    def __init__(self) -> None:
        self._second = -1
        self._field: Field = (b"Date", b"")

    def field(self) -> Field:
        now = int(time())
        if now != self._second:
            self._second = now
            self._field = (b"Date", formatdate(now, usegmt=True).encode("ascii"))
        return self._field


date_field = _Dates().field
"""Return the Date field of now."""
