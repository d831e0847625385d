"""A WebSocket client for the tests: it prints, as JSON, what came of the messages that it sent.

Arguments: the URL, and the sizes of the messages.
"""

import json
import os
import sys

import trio
from trio_websocket import open_websocket_url

WITHIN_S = 30


async def main(url: str, sizes: list[int]) -> None:
    """Have each message given back, and a ping answered between any two."""
    with trio.fail_after(WITHIN_S):
        async with open_websocket_url(url) as socket:
            said: list[object] = [await socket.get_message()]
            for size in sizes:
                message = os.urandom(size)
                await socket.send_message(message)
                await socket.ping()
                said.append(await socket.get_message() == message)
            await socket.aclose(1000, "done")
        reason = socket.closed
        assert reason is not None
        sys.stdout.write(json.dumps({"said": said, "closed": [reason.code, reason.reason]}))


if __name__ == "__main__":
    trio.run(main, sys.argv[1], [int(size) for size in sys.argv[2:]])
