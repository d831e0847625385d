"""Heads between HTTP/2 and the form in which this package forwards them (RFC 9113 §8).

HTTP/2 carries names and values as lengths and bytes, so it carries a line feed in a value as well
as any other byte, which becomes a second field, or a second request, where the message is written
as HTTP/1 behind us. Here each field is checked by itself, the message is written as the HTTP/1 head
that it stands for, and that is read by the same strict reader that a client of HTTP/1 meets. So
there is one set of rules, and nothing passes by HTTP/2 that would not pass by HTTP/1.

What differs between the versions is removed on the way: the pseudo-fields become the request line
and `Host`, crumbs of a cookie are joined (§8.2.3), and fields about the connection, which HTTP/2
does not have (§8.2.2), are refused when they come and dropped when they go.

Pure: fields in, heads out. `MalformedHead` is the fault of one stream, and ends only that.
"""

import re
from collections.abc import Iterable, Sequence

from overlay.http.errors import BadRequest, BadResponse, HttpError
from overlay.http.head import (
    CHUNKED,
    Field,
    RequestHead,
    ResponseHead,
    framing_fields,
    get,
    has_no_body,
    parse_request_head,
    parse_response_head,
    parse_trailers,
    reason_phrase,
    serialise_request,
    serialise_response,
)

_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]++")
_VALUE = re.compile(rb"(?![ \t])[^\x00-\x08\x0a-\x1f\x7f]*+(?<![ \t])")
_METHOD = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++")
_PATH = re.compile(rb"/[\x21-\x7e]*+")
_STATUS = re.compile(rb"[1-5][0-9][0-9]")

_OF_THE_CONNECTION = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"}
)
_REQUEST_PSEUDO = frozenset({b":method", b":scheme", b":path", b":authority"})
_RESPONSE_PSEUDO = frozenset({b":status"})


class MalformedHead(HttpError):
    """A message is malformed: its stream is to be reset (RFC 9113 §8.1.1)."""


def request_head(fields: Iterable[Field], *, ended: bool) -> RequestHead:
    """Return the head of a request that came as `fields`.

    Args:
        fields: as the header block has them.
        ended: the stream ended with them.

    Raises:
        MalformedHead: it is no request of HTTP/2.
        BadRequest: it is one that would not be taken by HTTP/1 either, with the status to answer.
    """
    pseudo, regular = _split(fields, _REQUEST_PSEUDO)
    method = pseudo.get(b":method", b"")
    if not _METHOD.fullmatch(method):
        raise MalformedHead("a request has exactly one method")
    if method == b"CONNECT":
        raise BadRequest(501, "CONNECT is not offered over HTTP/2")
    path = pseudo.get(b":path", b"")
    if not pseudo.get(b":scheme") or not (
        _PATH.fullmatch(path) or (path == b"*" and method == b"OPTIONS")
    ):
        raise MalformedHead("a request has a scheme, and a path that begins with /")
    regular = [*_host(pseudo, regular), *_with_cookie_joined(regular)]
    return parse_request_head(
        serialise_request(method, path, [*regular, *_framing(regular, ended)])
    )


def response_head(fields: Iterable[Field], method: bytes, *, ended: bool) -> ResponseHead:
    """Return the head of an answer to `method` that came as `fields`.

    Raises:
        BadResponse: it is none.
    """
    try:
        pseudo, regular = _split(fields, _RESPONSE_PSEUDO)
        status = int(_checked_status(pseudo))
        if method != b"HEAD" and not has_no_body(status):
            if ended and get(regular, b"content-length") is None:
                regular.append((b"content-length", b"0"))
            regular += _framing(regular, ended)
    except MalformedHead as exc:
        raise BadResponse(str(exc)) from exc
    return parse_response_head(serialise_response(status, reason_phrase(status), regular), method)


def trailers(fields: Iterable[Field]) -> list[Field]:
    """Return what may be passed on of the fields that came after a body.

    Raises:
        MalformedHead: they are none.
    """
    _, regular = _split(fields, frozenset())
    try:
        return parse_trailers(b"".join([b"%b: %b\r\n" % field for field in regular]))
    except ValueError as exc:
        raise MalformedHead(str(exc)) from exc


def request_fields(method: bytes, target: bytes, headers: Sequence[Field]) -> list[Field]:
    """Return a request as the fields of a header block; `Host` becomes the authority."""
    host = get(headers, b"host")
    pseudo = [(b":method", method), (b":scheme", b"http"), (b":path", target)]
    if host is not None:
        pseudo.append((b":authority", host))
    return pseudo + [field for field in regular_fields(headers) if field[0] != b"host"]


def response_fields(status: int, headers: Sequence[Field]) -> list[Field]:
    """Return an answer as the fields of a header block."""
    return [(b":status", b"%d" % status), *regular_fields(headers)]


def regular_fields(headers: Iterable[Field]) -> list[Field]:
    """Return `headers` as HTTP/2 has them: names in lower case, none about the connection."""
    lowered = [(name.lower(), value) for name, value in headers]
    return [field for field in lowered if field[0] not in _OF_THE_CONNECTION]


def _split(
    fields: Iterable[Field], known: frozenset[bytes]
) -> tuple[dict[bytes, bytes], list[Field]]:
    """Return pseudo-fields and others, each of them checked by itself."""
    pseudo: dict[bytes, bytes] = {}
    regular: list[Field] = []
    for name, value in fields:
        if not _VALUE.fullmatch(value):
            raise MalformedHead(f"the value of {_shown(name)} has a byte that no value has")
        if name[:1] == b":":
            if name not in known or name in pseudo or regular:
                raise MalformedHead(f"the pseudo-field {_shown(name)} has no place there")
            pseudo[name] = value
            continue
        if not _NAME.fullmatch(name):
            raise MalformedHead(f"{_shown(name)} is no field's name in HTTP/2")
        if name in _OF_THE_CONNECTION or (name == b"te" and value != b"trailers"):
            raise MalformedHead(f"{_shown(name)} is about a connection of HTTP/1")
        regular.append((name, value))
    return pseudo, regular


def _shown(name: bytes) -> str:
    return repr(name[:60].decode("ascii", "backslashreplace"))


def _host(pseudo: dict[bytes, bytes], regular: list[Field]) -> list[Field]:
    """Take Host out of `regular` and return the one that counts (RFC 9113 §8.3.1)."""
    hosts = [value for name, value in regular if name == b"host"]
    authority = pseudo.get(b":authority")
    if authority is None:
        named = hosts
    elif b"@" in authority or any(host.lower() != authority.lower() for host in hosts):
        raise MalformedHead("the authority and the Host field name different servers")
    else:
        named = [authority]
    regular[:] = [field for field in regular if field[0] != b"host"]
    return [(b"host", host) for host in named]


def _with_cookie_joined(regular: list[Field]) -> list[Field]:
    crumbs = [value for name, value in regular if name == b"cookie"]
    if len(crumbs) < 2:  # noqa: PLR2004 - it is whole
        return regular
    others = [field for field in regular if field[0] != b"cookie"]
    return [*others, (b"cookie", b"; ".join(crumbs))]


def _framing(regular: Sequence[Field], ended: bool) -> Sequence[Field]:
    """Return what says where the body ends, if `regular` does not say it."""
    length = get(regular, b"content-length")
    if ended and length is not None and length.strip(b"0"):
        raise MalformedHead("the message ended before its body")
    return () if ended or length is not None else framing_fields(CHUNKED)


def _checked_status(pseudo: dict[bytes, bytes]) -> bytes:
    status = pseudo.get(b":status", b"")
    if not _STATUS.fullmatch(status):
        raise MalformedHead("an answer has exactly one status")
    return status
