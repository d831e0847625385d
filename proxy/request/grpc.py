"""What the proxy says to gRPC clients where it answers itself, and what it hears in an answer.

A gRPC client looks for `grpc-status` in an answer of 200; any other status it maps by itself, and
then shows no text. So a refusal becomes an answer of trailers alone, with the code that Envoy sends
for the same HTTP status. The other way round, an instance's answer to a call that failed has status
200 too and tells how it went in its trailers; what of that is its own fault counts as a 5xx does.
"""

from collections.abc import Sequence
from urllib.parse import quote

from overlay.http.head import Field, get

_TYPE = b"application/grpc"
_INTERNAL, _UNAUTHENTICATED, _PERMISSION_DENIED = 13, 16, 7
_UNIMPLEMENTED, _UNAVAILABLE, _UNKNOWN = 12, 14, 2
_DEADLINE_EXCEEDED = 4
_CODES = {
    400: _INTERNAL,
    401: _UNAUTHENTICATED,
    403: _PERMISSION_DENIED,
    404: _UNIMPLEMENTED,
    429: _UNAVAILABLE,
    502: _UNAVAILABLE,
    503: _UNAVAILABLE,
    504: _UNAVAILABLE,
}
_DATA_LOSS = 15
_FAILURES = {b"%d" % code for code in (_UNKNOWN, _INTERNAL, _UNAVAILABLE, _DATA_LOSS)}
_MAX_MESSAGE = 1024
"""Of a refusal's text, in characters; a started instance's log may be a part of it."""
_PLAIN = "".join(chr(c) for c in range(0x20, 0x7F) if chr(c) != "%")


def is_failure(status: bytes) -> bool:
    """Return whether a `grpc-status` says that the instance failed.

    These are the codes that Envoy counts, less two that tell of the call: `DEADLINE_EXCEEDED`, as
    the client sets the deadline, and `UNIMPLEMENTED`, as the client chooses the method. With
    either, one client's mistakes could take an instance from all.
    """
    return status in _FAILURES


def status_of(head: Sequence[Field], trailers: Sequence[Field]) -> bytes:
    """Return the `grpc-status` of an answer, b"" where there is none.

    It is among the trailers, or in the head of an answer that has nothing else.
    """
    return get(trailers, b"grpc-status") or get(head, b"grpc-status") or b""


def refusal(
    status: int, text: str, retry_after_s: float | None, *, late: bool = False
) -> list[Field]:
    """Return the fields of the answer that refuses a call; it has status 200 and no body.

    Args:
        status: what another client would get.
        text: for a person.
        retry_after_s: when to ask again.
        late: the call was under way and took too long.
    """
    code = _DEADLINE_EXCEEDED if late else _CODES.get(status, _UNKNOWN)
    fields = [
        (b"Content-Type", _TYPE),
        (b"grpc-status", b"%d" % code),
        (b"grpc-message", quote(text[:_MAX_MESSAGE], safe=_PLAIN).encode("ascii")),
    ]
    if retry_after_s is not None:
        fields.append((b"grpc-retry-pushback-ms", b"%d" % round(retry_after_s * 1000)))
    return fields
