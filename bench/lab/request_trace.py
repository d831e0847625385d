"""What the lab keeps of one request."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

FAILED = -1
"""The status of a request that got no answer."""


class RequestTrace(NamedTuple):
    """One request of a load, as its client saw it.

    Times are seconds since 1970. A latency counts from `created`, when the request was due, so that
    a stall is charged to every request that had to wait for it.

    Attributes:
        request_id: unique among all traces: client's id, a colon, a number that grows.
        client: the client's id, `HOST:SERVICE:N`.
        service: what was asked for: a service's name or a URL.
        host: the load host on which the client runs.
        created: when the request was due.
        sent: when its first byte went out.
        done: when the last byte of the answer came, or it was given up.
        status: of the answer; `FAILED` where none came.
        server: which instance answered, as the answer says; empty if it does not.
        exp_id: the experiment in which it was sent, marked when it was sent; empty for none.
    """

    request_id: str
    client: str
    service: str
    host: str
    created: float
    sent: float
    done: float
    status: int
    server: str
    exp_id: str


class TraceSink(Protocol):
    """Where traces go."""

    async def write(self, traces: Sequence[RequestTrace]) -> None:
        """Keep these; return once they are as safe as this sink makes anything."""
