"""Reads one answer after the other from the bytes of a connection; does no I/O.

Heads and bodies are read by the proxy's own parsers (`overlay/http`), which remember heads that
come again. Most answers come whole, in one piece, and with a length: these take one look-up.
"""

from overlay.http.body import BodyDecoder, body_decoder
from overlay.http.errors import BadResponse, MalformedBody
from overlay.http.head import (
    FINAL,
    MAX_HEAD_BYTES,
    BodyKind,
    ResponseHead,
    get,
    parse_response_head,
)

_END = b"\r\n\r\n"
_SWITCHED = 101


class AnswerReader:
    """Reads the answers of one connection, one for each request.

    Attributes:
        reusable: another request may be sent after the answer that was returned last.
    """

    __slots__ = ("_decoder", "_head", "_held", "_method", "reusable")

    def __init__(self) -> None:
        self._held = b""
        self._head: ResponseHead | None = None
        self._decoder: BodyDecoder | None = None
        self._method = b"GET"
        self.reusable = True

    def expect(self, method: bytes) -> None:
        """Wait for the answer to a request with this method."""
        self._method = method

    @property
    def begun(self) -> bool:
        """Return whether a part of the answer is there."""
        return self._head is not None or bool(self._held)

    def feed(self, data: bytes) -> ResponseHead | None:
        """Take bytes that came, at least one; return the head of the answer if it is whole now.

        Raises:
            BadResponse, MalformedBody: this is no answer, or more than one.
        """
        if self._decoder is not None:
            return self._fed(self._decoder, data)
        if self._held:
            data, self._held = self._held + data, b""
        while (end := data.find(_END) + len(_END)) >= len(_END):
            head = parse_response_head(data[:end], self._method)
            if head.status >= FINAL:
                return self._begin(head, data, end)
            if head.status == _SWITCHED:
                raise BadResponse("the server switches to a protocol that was not asked for")
            data = data[end:]
        if len(data) > MAX_HEAD_BYTES:
            raise BadResponse(f"the answer's head is longer than {MAX_HEAD_BYTES} bytes")
        self._held = data
        return None

    def end(self) -> ResponseHead:
        """Take note that no more bytes come; return the head of the answer if that makes it whole.

        Raises:
            BadResponse, MalformedBody: it is not whole.
        """
        self.reusable = False
        if self._decoder is None or self._head is None:
            raise BadResponse("the connection ended before the answer's head")
        self._decoder.end()
        return self._head

    def _begin(self, head: ResponseHead, data: bytes, end: int) -> ResponseHead | None:
        kind, length = head.framing
        if kind is BodyKind.LENGTH and len(data) == end + length:
            self.reusable = head.keep_alive
            return head
        self._head, self._decoder = head, body_decoder(head.framing)
        return self._fed(self._decoder, data[end:])

    def _fed(self, decoder: BodyDecoder, data: bytes) -> ResponseHead | None:
        if not decoder.done and data:
            decoder.feed(data)
            data = decoder.leftover
        if not decoder.done:
            return None
        if data:
            raise MalformedBody("more came than the answer")
        head = self._head
        assert head is not None  # noqa: S101  (for the type checker: there is a decoder)
        self.reusable = head.keep_alive
        self._head = self._decoder = None
        return head


def instance_of(head: ResponseHead) -> str:
    """Return which instance answered, as a proxy of Myxo says; empty if none does."""
    return (get(head.headers, b"x-myxo-instance") or b"").decode("latin-1")
