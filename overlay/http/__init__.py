"""HTTP/1.1 between clients, proxies, gateways and instances, on trio streams.

`head` and `body` are pure; `ServerConnection` reads a client's requests, `Pool` lends connections
to a server, and `exchange` forwards one request and streams its answer back.
"""

from overlay.http.connection import Limits, RequestBody, ServerConnection
from overlay.http.errors import (
    BadRequest,
    BadResponse,
    ClientGone,
    HttpError,
    ResponseCut,
    UpstreamFailed,
)
from overlay.http.exchange import Exchanged, exchange
from overlay.http.head import Field, RequestHead, ResponseHead, end_to_end, get
from overlay.http.upstream import Lease, Pool, UpstreamConnection

__all__ = [
    "BadRequest",
    "BadResponse",
    "ClientGone",
    "Exchanged",
    "Field",
    "HttpError",
    "Lease",
    "Limits",
    "Pool",
    "RequestBody",
    "RequestHead",
    "ResponseCut",
    "ResponseHead",
    "ServerConnection",
    "UpstreamConnection",
    "UpstreamFailed",
    "end_to_end",
    "exchange",
    "get",
]
