"""Calls every method of `grpc_server.py` once through a proxy; writes what came as JSON.

python grpc_client.py PROXY SERVICE
"""

import json
import queue
import sys

import grpc

METHOD = "/myxo.test.Echo/"
TIMEOUT_S = 60.0


def main() -> None:
    proxy, service = sys.argv[1:]
    options = [("grpc.default_authority", f"{service}.myxo.localhost")]
    with grpc.insecure_channel(proxy, options) as channel:
        large = bytes(range(256)) * 4096
        answer, call = channel.unary_unary(METHOD + "Echo").with_call(large, timeout=TIMEOUT_S)
        told = dict(call.trailing_metadata())
        said = {**talk(channel), "unary": answer == large, "length": told["length"]}
        sys.stdout.write(json.dumps(said))


def talk(channel: grpc.Channel) -> dict[str, object]:
    sent: queue.Queue[bytes | None] = queue.Queue()
    call = channel.stream_stream(METHOD + "Talk")(iter(sent.get, None), timeout=TIMEOUT_S)
    heard = []
    for word in (b"one", b"two", b"three"):
        sent.put(word)
        heard.append(next(call).decode())  # the answer to one message, before the next is sent
    sent.put(None)
    rest = [message.decode() for message in call]
    count = dict(call.trailing_metadata())["count"]
    return {"heard": heard + rest, "count": count, "code": str(call.code())}


if __name__ == "__main__":
    main()
