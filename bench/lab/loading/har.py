"""Reads a HAR, the recording of a browser (HTTP Archive 1.2), as requests with their times."""

from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError

from bench.lab.errors import BadInput
from bench.lab.loading.imported import Imported, origin_of, path_of
from bench.lab.loading.plan import MOST_REQUESTS

_OURS = frozenset({"host", "connection", "content-length", "transfer-encoding", "keep-alive", "te"})
"""Fields that whoever sends writes anew; HTTP/2's begin with a colon."""


class _Pair(BaseModel):
    name: str
    value: str = ""


class _Posted(BaseModel):
    text: str | None = None
    params: list[_Pair] = Field(default_factory=list)


class _Request(BaseModel):
    method: str
    url: str
    headers: list[_Pair] = Field(default_factory=list)
    posted: Annotated[_Posted | None, Field(alias="postData")] = None


class _Entry(BaseModel):
    started: Annotated[datetime, Field(alias="startedDateTime")]
    request: _Request


class _Log(BaseModel):
    entries: Annotated[list[_Entry], Field(min_length=1, max_length=MOST_REQUESTS)]


class _Archive(BaseModel):
    log: _Log


def read_har(text: str, origin: str | None = None) -> Imported:
    """Return the requests that a HAR has for one origin, each due when it was sent.

    Args:
        text: the file.
        origin: whose requests are kept, such as `https://example.org`; else the first one's.

    Raises:
        BadInput: this is no HAR, or has nothing for that origin.
    """
    try:
        entries = _Archive.model_validate_json(text).log.entries
    except ValidationError as exc:
        first = exc.errors()[0]
        where = ".".join(str(one) for one in first["loc"])
        raise BadInput(f"this is no HAR: {where or 'the file'}: {first['msg']}") from exc
    chosen = origin.rstrip("/") if origin else origin_of(entries[0].request.url)
    kept = sorted(
        (one for one in entries if origin_of(one.request.url) == chosen), key=lambda e: e.started
    )
    if not kept:
        raise BadInput(f"the HAR has no request for {chosen}; it has {', '.join(_others(entries))}")
    begin = kept[0].started
    requests = [_asked(one, (one.started - begin).total_seconds()) for one in kept]
    left_out = _others(one for one in entries if origin_of(one.request.url) != chosen)
    notes = [f"left out: {count} requests for {other}" for other, count in left_out.items()]
    return Imported({"target": f"{chosen}/", "requests": requests}, notes)


def _others(entries: Any) -> Mapping[str, int]:
    return Counter(origin_of(one.request.url) or one.request.url[:40] for one in entries)


def _asked(entry: _Entry, at: float) -> dict[str, Any]:
    request = entry.request
    asked = {"method": request.method, "path": path_of(request.url), "at": round(at, 6)}
    return asked | ({"kwargs": kwargs} if (kwargs := _kwargs(request)) else {})


def _kwargs(request: _Request) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if headers := [[pair.name, pair.value] for pair in request.headers if _is_sent(pair.name)]:
        found["headers"] = headers
    if request.posted is not None and request.posted.text is not None:
        found["content"] = request.posted.text
    elif request.posted is not None and request.posted.params:
        found["data"] = {pair.name: pair.value for pair in request.posted.params}
    return found


def _is_sent(name: str) -> bool:
    return not name.startswith(":") and name.lower() not in _OURS
