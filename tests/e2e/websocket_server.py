"""A service for the tests that speaks WebSocket: it says hello, then gives back what it gets."""

import os

import trio
from trio_websocket import ConnectionClosed, WebSocketRequest, serve_websocket


async def chat(request: WebSocketRequest) -> None:
    """Say hello, then give back each message."""
    socket = await request.accept()
    await socket.send_message("hello")
    while True:
        try:
            await socket.send_message(await socket.get_message())
        except ConnectionClosed:
            return


if __name__ == "__main__":
    trio.run(serve_websocket, chat, "127.0.0.1", int(os.environ["SERVICE_PORT"]), None)
