"""A request's part in a distributed trace, as the proxy passes it on (W3C Trace Context).

Without an exporter the client's fields go on untouched, as the recommendation has it for who takes
no part. With one, the instance is told the proxy's own span as its parent.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from overlay.http.head import Field, get

TRACEPARENT, TRACESTATE = b"traceparent", b"tracestate"
_NAMES = frozenset({TRACEPARENT, TRACESTATE})
_VERSION_0 = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")


@dataclass(frozen=True, slots=True)
class Trace:
    """What the instance is told, and the exporter's own object for the span.

    Attributes:
        trace_id: 32 hexadecimal digits.
        fields: the proxy's `traceparent`, and `tracestate` if there is one.
        span: the exporter's.
    """

    trace_id: str
    fields: tuple[Field, ...]
    span: object

    def passed_on(self, fields: Iterable[Field]) -> list[Field]:
        """Return a request's fields with the client's place in the trace replaced by ours."""
        return [*(f for f in fields if f[0].lower() not in _NAMES), *self.fields]


def trace_id_of(headers: Sequence[Field]) -> str:
    """Return the id of the trace that the client says it is part of, "" if it says none."""
    value = get(headers, TRACEPARENT)
    found = None if value is None else _VERSION_0.match(value.strip())
    return "" if found is None else found[1].decode()
