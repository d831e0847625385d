"""What can go wrong with a request to a service, by what the caller can do next."""

from overlay.errors import MyxoError

MAX_TEXT = 300
"""Signs of an error's answer that are part of the exception's text."""

MAX_BODY_BYTES = 64 << 10
"""Of an error's answer that are kept."""


class ServiceError(MyxoError):
    """A request to a service brought no result.

    Attributes:
        index: of the item in a map's input; None where it was no map.
    """

    index: int | None = None


class NoProxy(ServiceError):
    """No proxy can be reached, so nothing was asked."""


class RequestFailed(ServiceError):
    """The service, or the proxy in its place, answered with a status that is none of success.

    Attributes:
        status: of the answer.
        body: of the answer, as far as `MAX_BODY_BYTES`.
        retry_after_s: seconds after which the answer says that one may ask again, or None.
        by_network: whether the proxy itself answered, and no instance.
    """

    def __init__(
        self,
        asked: str,
        status: int,
        body: bytes,
        *,
        retry_after_s: float | None = None,
        by_network: bool = False,
    ) -> None:
        text = body[: 4 * MAX_TEXT].decode(errors="replace").strip()[:MAX_TEXT]
        super().__init__(f"{asked} answered {status}" + (f": {text}" if text else ""))
        self.status = status
        self.body = body[:MAX_BODY_BYTES]
        self.retry_after_s = retry_after_s
        self.by_network = by_network


class AnswerLost(ServiceError):
    """The connection ended before the answer did; the service may have done what was asked."""


class Unencodable(ServiceError):
    """The value cannot be encoded, so nothing was asked."""


class Undecodable(ServiceError):
    """The answer cannot be decoded; the service has done what was asked."""
