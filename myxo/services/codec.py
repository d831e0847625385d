"""How values become the bodies of requests, and bodies of answers values."""

import json
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

_BYTES_TYPE = "application/octet-stream"


class Codec(NamedTuple):
    """Two functions, and what the first one makes.

    Attributes:
        encode: returns a value's bytes.
        decode: returns the value that an answer's bytes stand for.
        content_type: of the request.
    """

    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]
    content_type: str = _BYTES_TYPE


CodecLike = (
    Literal["json", "bytes"]
    | Codec
    | tuple[Callable[[Any], bytes], Callable[[bytes], Any]]
    | tuple[Callable[[Any], bytes], Callable[[bytes], Any], str]
)


def codec_of(said: CodecLike) -> Codec:
    """Return the codec that a caller means.

    Raises:
        ValueError: it is none.
    """
    if said == "json":
        return JSON
    if said == "bytes":
        return BYTES
    if isinstance(said, tuple) and len(said) in (2, 3) and all(map(callable, said[:2])):
        return Codec(*said)
    raise ValueError(
        f'codec is {said!r}; it is "json", "bytes", or two functions: from a value to bytes, and '
        "back"
    )


def _to_json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False).encode()


def _from_json(data: bytes) -> Any:
    return json.loads(data) if data else None


def _same_bytes(value: Any) -> bytes:
    return bytes(memoryview(value))


JSON = Codec(_to_json, _from_json, "application/json")
"""What JSON has; an answer without a body is None."""

BYTES = Codec(_same_bytes, bytes)
"""Anything that holds bytes, as it is."""
