"""A gRPC service without generated code: messages are bytes, each method is a few lines.

Unary `Echo` answers what it was asked and which process answered; `Talk` answers each message as
it comes; `Count` streams numbers; `Fail` refuses with details; `Wait` says that it began and waits
for the call's end, of which it tells in the file that it was given.
"""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import grpc

SERVICE = "myxo.test.Echo"


def echo(request: bytes, context: grpc.ServicerContext) -> bytes:
    given = dict(context.invocation_metadata())
    context.send_initial_metadata([("pid", str(os.getpid()))])
    context.set_trailing_metadata(
        [("length", str(len(request))), ("token-bin", given.get("token-bin", b""))]
    )
    return request


def talk(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
    context.send_initial_metadata([("pid", str(os.getpid()))])
    count = 0
    for request in requests:
        count += 1
        yield request.upper()
    context.set_trailing_metadata([("count", str(count))])


def count(request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
    del context
    for number in range(int(request)):
        yield str(number).encode()


def fail(request: bytes, context: grpc.ServicerContext) -> bytes:
    context.set_trailing_metadata([("hint", "none")])
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, f"no: {request.decode()}")
    raise AssertionError


def wait(request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
    ended = threading.Event()

    def tell() -> None:
        Path(request.decode()).write_text("ended")
        ended.set()

    context.add_callback(tell)
    yield b"began"
    ended.wait(30)


def main() -> None:
    server = grpc.server(futures.ThreadPoolExecutor(32))
    methods = {
        "Echo": grpc.unary_unary_rpc_method_handler(echo),
        "Talk": grpc.stream_stream_rpc_method_handler(talk),
        "Count": grpc.unary_stream_rpc_method_handler(count),
        "Fail": grpc.unary_unary_rpc_method_handler(fail),
        "Wait": grpc.unary_stream_rpc_method_handler(wait),
    }
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, methods)])
    server.add_insecure_port(f"127.0.0.1:{os.environ['PORT']}")
    server.start()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    server.wait_for_termination()


if __name__ == "__main__":
    main()
