"""What can go wrong while HTTP is spoken, by whose fault it is and what the caller can do next."""

from typing import TYPE_CHECKING

from overlay.errors import MyxoError

if TYPE_CHECKING:
    from overlay.http.transport import Transport


class HttpError(MyxoError):
    """Root of what this package raises."""


class BadRequest(HttpError):
    """The client's message is wrong: answer `status`, close, forward nothing of it.

    Attributes:
        status: the status code that tells the client, such as 400, 408, 414, 431, 501 or 505.
        reason: one line for a person.
    """

    def __init__(self, status: int, reason: str) -> None:
        self.status = status
        self.reason = reason
        super().__init__(f"{status}: {reason}")


class SpeaksHttp2(BadRequest):
    """The client began with HTTP/2's preface; whoever does not speak it refuses with 505.

    Attributes:
        transport: the connection, which belongs to who catches this.
        received: what was read of it.
    """

    def __init__(self, transport: "Transport", received: bytes) -> None:
        self.transport = transport
        self.received = received
        super().__init__(505, "only HTTP/1.0 and HTTP/1.1 are spoken here")


class BadResponse(HttpError):
    """The upstream's message is wrong; it reaches callers as the cause of `UpstreamFailed`."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class MalformedBody(HttpError):
    """The body's framing is wrong; whose fault it is, only the caller of the decoder knows."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class ClientGone(HttpError):
    """The client's connection is lost; there is nobody left to answer."""


class UpstreamFailed(HttpError):
    """The upstream failed before any byte of its final answer reached the client.

    The client's connection is still good: answer 502 (504 if `timed_out`), or try another upstream
    if the request may be sent twice and `client.body.replayable` holds.

    Attributes:
        reason: one line for a person.
        maybe_processed: the upstream may have acted on the request; False says that it has not.
        sent_any_body: bytes of the request's body had been sent to it.
        malformed: it answered, but not in HTTP.
        timed_out: it took the request and did not answer within the caller's `head_timeout_s`.
        reused: the connection had served before, so that a fresh one to the same place may do.
        alone: only this request failed; the upstream goes on with others on the same connection.
    """

    def __init__(
        self,
        reason: str,
        *,
        maybe_processed: bool,
        sent_any_body: bool,
        reused: bool,
        alone: bool = False,
        malformed: bool = False,
        timed_out: bool = False,
    ) -> None:
        self.reason = reason
        self.maybe_processed = maybe_processed
        self.sent_any_body = sent_any_body
        self.reused = reused
        self.alone = alone
        self.malformed = malformed
        self.timed_out = timed_out
        super().__init__(reason)


class ResponseCut(HttpError):
    """The upstream failed in the middle of its answer; the client's connection was aborted.

    Attributes:
        status: what the client had been told before.
    """

    def __init__(self, status: int, reason: str) -> None:
        self.status = status
        self.reason = reason
        super().__init__(f"the answer ({status}) was cut: {reason}")
