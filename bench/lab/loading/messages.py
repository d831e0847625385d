"""Requests as bytes, made of what `requests` and Galileo's clients say: method, path, kwargs."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import httpx

from bench.lab.errors import BadInput
from bench.lab.loading.target import Target
from overlay.http.head import Field, serialise_request

KWARGS = frozenset({"params", "headers", "cookies", "data", "content", "files", "json"})
"""What is understood, with the meanings that `requests` gives them."""

_WRITTEN_HERE = frozenset({b"connection", b"content-length", b"transfer-encoding"})
_DEFAULTS: tuple[Field, ...] = ((b"User-Agent", b"myxo-lab"), (b"Accept", b"*/*"))
_EXPLAINED: Field = (b"X-Myxo-Explain", b"1")


class Message(NamedTuple):
    """A request as it goes out.

    Attributes:
        method: decides whether its answer has a body.
        data: head and body.
    """

    method: bytes
    data: bytes


def message(
    target: Target,
    method: str = "GET",
    path: str = "",
    kwargs: Mapping[str, Any] | None = None,
    *,
    explained: bool = False,
) -> Message:
    """Return a request.

    Args:
        target: to whom.
        method: such as `GET`.
        path: below the target's own; empty for that.
        kwargs: of `KWARGS`.
        explained: ask a proxy of Myxo to say which instance answered.

    Raises:
        BadInput: there is no such request; the message says why.
    """
    if unknown := set(kwargs or ()) - KWARGS:
        known = ", ".join(sorted(KWARGS))
        raise BadInput(f"a request has no {', '.join(sorted(unknown))}; it may have {known}")
    try:
        built = _built(method, _url(target, path), dict(kwargs or {}))
        name = built.method.encode("ascii")
        fields = _fields(built) + ([_EXPLAINED] if explained else [])
        head = serialise_request(name, built.url.raw_path, fields)
    except (TypeError, ValueError, AttributeError, httpx.InvalidURL) as exc:
        raise BadInput(f"{method} {path}: the request cannot be made: {exc}") from exc
    return Message(name, head + built.content)


def _url(target: Target, path: str) -> str:
    url = path if "://" in path else target.url(path)
    if not url.startswith(f"{target.origin}/"):
        raise BadInput(f"{url} is not at {target.origin}, to which this load goes")
    return url


def _built(method: str, url: str, kwargs: dict[str, Any]) -> httpx.Request:
    if isinstance(kwargs.get("data"), str | bytes):
        kwargs["content"] = kwargs.pop("data")  # httpx takes forms alone as data
    whole = httpx.URL(url)
    if params := kwargs.pop("params", None):
        whole = whole.copy_merge_params(params)  # else it drops what the URL has
    built = httpx.Request(method, whole, **kwargs)
    built.read()
    return built


def _fields(built: httpx.Request) -> list[Field]:
    fields = [(n, v) for n, v in built.headers.raw if n.lower() not in _WRITTEN_HERE]
    fields += [field for field in _DEFAULTS if field[0].decode() not in built.headers]
    if built.content or "content-length" in built.headers:
        fields.append((b"Content-Length", b"%d" % len(built.content)))
    return fields
