"""One request of a client's, and what was answered, body and all, for a person to look at."""

import h11
import trio

from bench.lab.hosts.messages import MAX_BODY_BYTES, Answered
from bench.lab.loading.messages import Message
from bench.lab.loading.target import Target
from bench.lab.request_trace import FAILED

TIMEOUT_S = 30.0
_READ_BYTES = 64 * 1024


async def ask(target: Target, message: Message) -> Answered:
    """Return what is answered; a request that fails is answered, too, by why it did."""
    began = trio.current_time()
    try:
        with trio.fail_after(TIMEOUT_S):
            status, fields, body = await _exchange(target, message)
    except (OSError, trio.BrokenResourceError, h11.ProtocolError) as exc:
        status, fields, body = FAILED, (), str(exc).encode()
    except trio.TooSlowError:
        status, fields, body = FAILED, (), f"no answer within {TIMEOUT_S:g} s".encode()
    took_s = trio.current_time() - began
    return Answered(status=status, fields=fields, body=body, took_s=took_s)


Whole = tuple[int, tuple[tuple[str, str], ...], bytes]


async def _exchange(target: Target, message: Message) -> Whole:
    stream: trio.abc.Stream
    if target.scheme == "https":
        stream = await trio.open_ssl_over_tcp_stream(
            target.host, target.port, https_compatible=True
        )
    else:
        stream = await trio.open_tcp_stream(target.host, target.port)
    async with stream:
        await stream.send_all(message.data)
        return await _answer(stream, message.method)


async def _answer(stream: trio.abc.Stream, method: bytes) -> Whole:
    connection = h11.Connection(h11.CLIENT)
    # The request has gone out as it was made; what is said here only tells the parser of it.
    connection.send(h11.Request(method=method, target="/", headers=[("Host", "said")]))
    connection.send(h11.EndOfMessage())
    status, fields, body = FAILED, tuple[tuple[str, str], ...](), bytearray()
    while True:
        match connection.next_event():
            case h11.NEED_DATA:
                connection.receive_data(bytes(await stream.receive_some(_READ_BYTES)))
            case h11.Response() as head:
                status = head.status_code
                fields = tuple((n.decode("latin-1"), v.decode("latin-1")) for n, v in head.headers)
            case h11.Data(data=data):
                body += data
                if len(body) >= MAX_BODY_BYTES:
                    return status, fields, bytes(body[:MAX_BODY_BYTES])
            case h11.EndOfMessage() | h11.ConnectionClosed():
                return status, fields, bytes(body)
