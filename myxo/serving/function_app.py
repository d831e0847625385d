"""A function as an ASGI application: JSON in, JSON out, at the service's root."""

import inspect
import json
import sys
import traceback
from collections.abc import Awaitable, Callable, MutableMapping
from http import HTTPStatus
from typing import Any

import anyio
import anyio.to_thread

from myxo.serving.kinds import takes_a_value

MAX_BODY_BYTES = 64 << 20

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class Refused(Exception):
    """The request cannot be given to the function.

    Attributes:
        status: of the answer.
    """

    def __init__(self, status: HTTPStatus, text: str) -> None:
        super().__init__(text)
        self.status = status


class FunctionApp:
    """Calls a function for each request; one that is not asynchronous, in a thread.

    POST gives it what the body says, and a request without a body calls it without an argument.

    Args:
        function: of at most one argument.
        threads: in which calls run at once, at the most.
    """

    def __init__(self, function: Callable[..., Any], threads: int) -> None:
        self._function = function
        self._takes_value = takes_a_value(function)
        self._is_async = inspect.iscoroutinefunction(function)
        self._threads = threads
        self._limiter: anyio.CapacityLimiter | None = None

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request, or begin and end with the server."""
        if scope["type"] == "lifespan":
            await _live(receive, send)
        elif scope["type"] == "http":
            status, answer = await self._answer(scope, receive)
            await _respond(send, status, answer)
        else:
            await send({"type": "websocket.close"})

    async def _answer(self, scope: Message, receive: Receive) -> tuple[HTTPStatus, bytes]:
        try:
            _check(scope)
            result = await self._call(_values(await _body(receive)))
            text = json.dumps(result, allow_nan=False, ensure_ascii=False)
            return HTTPStatus.OK, text.encode()
        except Refused as exc:
            return exc.status, _error(str(exc))
        except Exception as exc:  # noqa: BLE001  (the service's own code)
            traceback.print_exc(file=sys.stderr)
            return HTTPStatus.INTERNAL_SERVER_ERROR, _error(f"{type(exc).__name__}: {exc}")

    async def _call(self, values: list[Any]) -> Any:
        if values and not self._takes_value:
            raise Refused(HTTPStatus.BAD_REQUEST, "the function takes nothing")
        if self._is_async:
            return await self._function(*values)
        if self._limiter is None:
            self._limiter = anyio.CapacityLimiter(self._threads)
        return await anyio.to_thread.run_sync(self._function, *values, limiter=self._limiter)


def _check(scope: Message) -> None:
    if scope["path"] not in ("", "/"):
        raise Refused(HTTPStatus.NOT_FOUND, "a function has no paths below its service's name")
    if scope["method"] not in ("GET", "POST"):
        raise Refused(HTTPStatus.METHOD_NOT_ALLOWED, "a function takes GET and POST")


async def _body(receive: Receive) -> bytes:
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Refused(HTTPStatus.BAD_REQUEST, "the request was cut")
        body += bytes(message.get("body", b""))
        if len(body) > MAX_BODY_BYTES:
            raise Refused(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body is over {MAX_BODY_BYTES} bytes"
            )
        if not message.get("more_body"):
            return body


def _values(body: bytes) -> list[Any]:
    if not body:
        return []
    try:
        return [json.loads(body)]
    except ValueError as exc:
        raise Refused(HTTPStatus.BAD_REQUEST, f"the body is no JSON: {exc}") from exc


def _error(text: str) -> bytes:
    return str(json.dumps({"error": text}, ensure_ascii=False)).encode()


async def _respond(send: Send, status: HTTPStatus, body: bytes) -> None:
    fields = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
    ]
    await send({"type": "http.response.start", "status": int(status), "headers": fields})
    await send({"type": "http.response.body", "body": body})


async def _live(receive: Receive, send: Send) -> None:
    while (await receive())["type"] != "lifespan.shutdown":
        await send({"type": "lifespan.startup.complete"})
    await send({"type": "lifespan.shutdown.complete"})
