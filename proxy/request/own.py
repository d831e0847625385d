"""What the proxy answers because it is asked itself: `OPTIONS *`, and the end of Max-Forwards.

Pure.
"""

from typing import NamedTuple

from overlay.http.head import Field, RequestHead, get
from proxy.request.fields import last_hop
from proxy.route.routing import is_of_machine

_KEPT_FROM_TRACE = frozenset({b"authorization", b"cookie", b"proxy-authorization"})
"""RFC 9110 section 9.3.8: what shows secrets is not sent back."""

_ALLOW: Field = (b"Allow", b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, TRACE, CONNECT")


class OwnAnswer(NamedTuple):
    """A 200 of the proxy's own."""

    fields: tuple[Field, ...]
    body: bytes


def own_answer(head: RequestHead, machine_names: frozenset[str]) -> OwnAnswer | None:
    """Return what the proxy itself answers, or None if the request is for a service.

    Raises:
        BadRequest: its Max-Forwards is no number.
    """
    if last_hop(head):
        return _traced(head) if head.method == b"TRACE" else OwnAnswer((_ALLOW,), b"")
    if head.target == b"*" and is_of_machine(get(head.headers, b"host") or b"", machine_names):
        return OwnAnswer((_ALLOW,), b"")
    return None


def _traced(head: RequestHead) -> OwnAnswer:
    lines = [b"TRACE %b HTTP/1.%d\r\n" % (head.target, head.minor)]
    lines += [b"%b: %b\r\n" % f for f in head.headers if f[0].lower() not in _KEPT_FROM_TRACE]
    return OwnAnswer(((b"Content-Type", b"message/http"),), b"".join([*lines, b"\r\n"]))
