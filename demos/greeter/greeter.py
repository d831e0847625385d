"""A gRPC service and its client in one file, without generated code: messages are text.

python3 greeter.py serve PORT
python3 greeter.py greet SERVICE NAME...
python3 greeter.py talk SERVICE < lines
"""

import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc

PROXY = "127.0.0.1:4200"


def greet(request: bytes, context: grpc.ServicerContext) -> bytes:
    context.set_trailing_metadata([("served-by", str(os.getpid()))])
    return b"hello, " + request


def talk(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
    del context
    for number, request in enumerate(requests, 1):
        yield b"%d: %b" % (number, request.upper())


def serve(port: str) -> None:
    server = grpc.server(ThreadPoolExecutor(16))
    methods = {
        "Greet": grpc.unary_unary_rpc_method_handler(greet),
        "Talk": grpc.stream_stream_rpc_method_handler(talk),
    }
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("demo.Greeter", methods)])
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    server.wait_for_termination()


def channel_to(service: str) -> grpc.Channel:
    """Return a channel to the proxy whose calls are for `service`."""
    authority = f"{service}.myxo.localhost"
    return grpc.insecure_channel(PROXY, [("grpc.default_authority", authority)])


def ask(service: str, names: list[str]) -> None:
    with channel_to(service) as channel:
        for name in names:
            answer = channel.unary_unary("/demo.Greeter/Greet")(name.encode())
            print(answer.decode(), flush=True)


def chat(service: str) -> None:
    """Send each line as it is typed, show each answer as it comes."""
    lines = (line.rstrip("\n").encode() for line in sys.stdin)
    with channel_to(service) as channel:
        for answer in channel.stream_stream("/demo.Greeter/Talk")(lines):
            print(answer.decode(), flush=True)


def main() -> None:
    try:
        match sys.argv[1:]:
            case ["serve", port]:
                serve(port)
            case ["greet", service, *names]:
                ask(service, names)
            case ["talk", service]:
                chat(service)
            case _:
                sys.exit(__doc__)
    except grpc.RpcError as exc:
        sys.exit(f"{exc.code().name}: {exc.details()}")


if __name__ == "__main__":
    main()
