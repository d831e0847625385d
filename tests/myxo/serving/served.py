"""What the tests serve; it imports a module of its own beside it."""

from collections.abc import Callable, Iterable
from typing import Any

from served_words import GREETING  # type: ignore[import-not-found]

import myxo


@myxo.service(requires=["pydantic>=2"], concurrency=3)
def greet(name: str = "nobody") -> str:
    return f"{GREETING}, {name}"


def raises(value: Any) -> None:
    raise ValueError(f"{value} is not to be had")


def gives_what_json_has_not(value: Any) -> Any:
    return {value}


async def doubled(value: int) -> int:
    return 2 * value


def wsgi(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [environ["REQUEST_METHOD"].encode(), environ["PATH_INFO"].encode()]


async def asgi(scope: Any, receive: Any, send: Any) -> None:
    del receive
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 201, "headers": []})
    await send({"type": "http.response.body", "body": scope["path"].encode()})
