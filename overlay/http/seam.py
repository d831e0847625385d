"""What forwarding needs of the two ends of a request, whatever version of HTTP each of them speaks.

A request comes from a `Client` (an HTTP/1 connection, or one stream of an HTTP/2 connection) and
goes to an `Upstream` (the same again, seen from the other side), which a `Source` lends. Heads and
fields are those of HTTP/1 on both sides: `h2_fields` translates.
"""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from math import inf
from typing import Protocol

from overlay.http.head import Field, Framing, ResponseHead


class ClientBody(Protocol):
    """The body of one request, read as it arrives; `RequestBody` is the one that there is."""

    framing: Framing
    received: int

    @property
    def consumed(self) -> bool:
        """Everything has been handed out since the start or the last `rewind`."""
        ...

    @property
    def replayable(self) -> bool:
        """What has been handed out can be had again by `rewind`."""
        ...

    @property
    def trailers(self) -> Sequence[Field]:
        """The trailer fields, once the body is complete."""
        ...

    def rewind(self) -> None:
        """Begin again."""
        ...

    def take(self) -> bytes:
        """Return what there is without waiting."""
        ...

    async def receive(self) -> bytes:
        """Wait for bytes of the body; b"" is its end."""
        ...


class Client(Protocol):
    """Who made the request and is owed the answer.

    Attributes:
        answering: a byte of the final answer has been sent.
        must_close: no other request may follow on what this one came by.
    """

    answering: bool
    must_close: bool

    @property
    def body(self) -> ClientBody:
        """Of the request."""
        ...

    async def respond(
        self, status: int, headers: Sequence[Field] = (), body: bytes = b"", reason: bytes = b""
    ) -> None:
        """Answer from memory.

        Raises:
            ClientGone: the client is not there any more.
        """
        ...

    async def send_informational(
        self, status: int, reason: bytes, headers: Sequence[Field]
    ) -> None:
        """Pass a 1xx answer on."""
        ...

    def hold_response(
        self,
        status: int,
        reason: bytes,
        headers: Sequence[Field],
        framing: Framing,
        payload: bytes,
    ) -> bool:
        """Take a whole answer, to be sent soon; without waiting.

        Returns:
            Whether it was taken; if not, `start_response` is how to send it.
        """
        ...

    async def start_response(
        self,
        status: int,
        reason: bytes,
        headers: Sequence[Field],
        framing: Framing,
        payload: bytes,
        *,
        trailers: Sequence[Field] | None = None,
    ) -> None:
        """Send a head with the first bytes of its body, and its end too if `trailers` is not None.

        Raises:
            ClientGone: the client is not there any more.
        """
        ...

    async def send_body(self, payload: bytes, *, trailers: Sequence[Field] | None = None) -> None:
        """Send more of the body, and its end too if `trailers` is not None.

        Raises:
            ClientGone: the client is not there any more.
        """
        ...

    async def until_gone(self) -> None:
        """Return when the client is known to have left."""
        ...

    async def abort(self) -> None:
        """End what is under way so that it cannot be taken for complete."""
        ...


class AnswerBody(Protocol):
    """How far the body of an answer has come."""

    @property
    def done(self) -> bool:
        """It is complete."""
        ...

    @property
    def trailers(self) -> Sequence[Field]:
        """Fields that came after it."""
        ...


class Upstream(Protocol):
    """Where one request is sent and its answer comes from.

    Attributes:
        reused: its connection carried a request before.
    """

    reused: bool

    @property
    def refused(self) -> bool:
        """The server said that it did not look at the request, which may be sent elsewhere."""
        ...

    @property
    def alone(self) -> bool:
        """If it failed, it failed alone: the connection stands, and others on it go on."""
        ...

    @property
    def body(self) -> AnswerBody:
        """Of the answer whose head was read last."""
        ...

    def hold_request(
        self,
        method: bytes,
        target: bytes,
        headers: Sequence[Field],
        framing: Framing,
        payload: bytes,
    ) -> bool:
        """Take a whole request, to be sent soon; without waiting.

        Returns:
            Whether it was taken; if not, `send_request` is how to send it.

        Raises:
            ValueError: a field is malformed.
        """
        ...

    async def send_request(
        self,
        method: bytes,
        target: bytes,
        headers: Sequence[Field],
        framing: Framing,
        payload: bytes,
        *,
        trailers: Sequence[Field] | None,
    ) -> None:
        """Send a head with the first bytes of its body, and its end too if `trailers` is not None.

        Raises:
            SendFailed: the connection is lost.
            ValueError: a field is malformed.
        """
        ...

    async def send_body(self, payload: bytes, *, trailers: Sequence[Field] | None) -> None:
        """Send more of the body, and its end too if `trailers` is not None.

        Raises:
            SendFailed: the connection is lost.
        """
        ...

    async def receive(self, within_s: float = inf) -> bytes | None:
        """Return what arrived, b"" at the end, or None if nothing did in `within_s` seconds.

        Raises:
            trio.BrokenResourceError: the connection is lost.
        """
        ...

    def take_whole(self, received: bytes, method: bytes) -> tuple[ResponseHead, bytes] | None:
        """Return the final answer to `method` and its body if `received` is all of it, no more.

        If not, nothing was done: `take_head` is for what comes in parts, and says what is wrong.
        """
        ...

    def take_head(self, received: bytes, method: bytes) -> ResponseHead | None:
        """Return the next head of the answer to `method` once it is complete.

        Raises:
            BadResponse: it is none.
        """
        ...

    def take_body(self, received: bytes | None = None) -> bytes:
        """Return what belongs to the body of `received`, or of what came with the head.

        Raises:
            MalformedBody: the body's framing is wrong, or it is cut.
        """
        ...

    def finish(self, head: ResponseHead) -> None:
        """Take note that request and answer are complete."""
        ...


class Source(Protocol):
    """Lends connections to one server; `Pool` and `StreamPool` do."""

    def acquire(self, *, fresh: bool = False) -> AbstractAsyncContextManager[Upstream]:
        """Return a context manager that lends a connection; `fresh` never lends a used one."""
        ...

    async def sweep(self) -> None:
        """Close what is idle for too long or was closed by the server; call it now and then."""
        ...

    async def aclose(self) -> None:
        """Close what is idle now, and what is in use when it comes back."""
        ...
