"""Heads of HTTP/1 messages: bytes to fields and back, and where the body ends (RFC 9110, RFC 9112).

A proxy that reads a message differently from the server behind it lets a client smuggle a second
request past it. So everything on which two readers could disagree is refused here, and nothing is
passed on unparsed: the forwarded head is written anew from the fields, and the body is framed anew.

Refused on purpose where RFC 9112 leaves a choice: lines that end in a bare LF (§2.2), obs-fold
(§5.2), repeated Content-Length even if equal (§6.3), Content-Length beside Transfer-Encoding
(§6.3), any transfer coding but a single `chunked` (§6.1), minor versions above 1, non-ASCII or `#`
in the target, and a CONNECT that announces a body (§6.3 would have it ignored).
"""

import re
from collections.abc import Iterable, Sequence
from enum import Enum
from functools import lru_cache
from http import HTTPStatus
from typing import NamedTuple, NoReturn

from overlay.http import fields
from overlay.http.errors import BadRequest, BadResponse
from overlay.http.fields import (
    HOP_BY_HOP,
    HOST,
    TOKEN,
    Control,
    Malformed,
    NotUnderstood,
    may_switch,
    parse_fields,
    read_control,
    takes_trailers,
)
from overlay.http.remembering import by_bytes, is_remembered
from overlay.http.written import head_of

Field = fields.Field

MAX_HEAD_BYTES = 64 * 1024
"""Twice what common servers take, so that what they would refuse is theirs to refuse."""
MAX_TARGET_BYTES = 16 * 1024
"""RFC 9112 §3 asks for 8,000 at least."""
MAX_FIELDS = 128
FINAL = 200
"""Statuses below are interim answers."""

_REQUEST_LINE = re.compile(rb"(%b++) ([\x21-\x7e]++) HTTP/([0-9])\.([0-9])\r\n" % TOKEN)
_STATUS_LINE = re.compile(
    rb"HTTP/([0-9])\.([0-9]) ([1-5][0-9][0-9])(?: ([\t\x20-\x7e\x80-\xff]*+))?\r\n"
)
_ABSOLUTE = re.compile(rb"[A-Za-z][A-Za-z0-9+\-.]*+://([^/?#@]++)(?:[/?].*)?")
_AUTHORITY = re.compile(rb"(?:\[[0-9A-Za-z:.%]++\]|[A-Za-z0-9\-._~!$&'()*+,;=%]++):[0-9]{1,5}")
_GRPC = b"application/grpc"
_BARE_LF = re.compile(rb"(?<!\r)\n")

_BODILESS = frozenset({int(HTTPStatus.NO_CONTENT), int(HTTPStatus.NOT_MODIFIED)})
_NOT_IN_TRAILERS = HOP_BY_HOP | {b"expect", b"host", b"trailer"}


class BodyKind(Enum):
    """How a message says where its body ends."""

    NONE = "none"
    LENGTH = "length"
    CHUNKED = "chunked"
    UNTIL_CLOSE = "until close"


class Framing(NamedTuple):
    """Where a message's body ends; `length` is in bytes and counts only for `LENGTH`."""

    kind: BodyKind
    length: int = 0

    @property
    def empty(self) -> bool:
        """No byte of a body follows the head."""
        return self.kind is BodyKind.NONE or (self.kind is BodyKind.LENGTH and self.length == 0)


NO_BODY = Framing(BodyKind.NONE)
CHUNKED = Framing(BodyKind.CHUNKED)
UNTIL_CLOSE = Framing(BodyKind.UNTIL_CLOSE)


class RequestHead(NamedTuple):
    """A checked request head.

    Attributes:
        method: as sent; methods are case-sensitive.
        target: origin-form, absolute-form, `*` for OPTIONS, `host:port` for CONNECT; ASCII,
            undecoded.
        minor: 0 or 1, of the version.
        headers: every field as sent, in order; see `end_to_end` for what may be forwarded.
        framing: of the body that follows.
        keep_alive: the client wants to send another request on this connection.
        expects_continue: it waits for a 100 before it sends the body.
        takes_trailers: it said `TE: trailers`.
        options: lower-case field names listed in Connection.
        upgrade: the protocols that the client asks to switch to and that may be; b"" for none.
        remembered: another request with the same head gets this very object.
    """

    method: bytes
    target: bytes
    minor: int
    headers: Sequence[Field]
    framing: Framing
    keep_alive: bool
    expects_continue: bool
    takes_trailers: bool
    options: frozenset[bytes]
    upgrade: bytes = b""
    remembered: bool = False


class ResponseHead(NamedTuple):
    """A checked response head.

    Attributes:
        status: 100 to 599.
        reason: as sent; may be empty.
        minor: 0 or 1, of the version.
        headers: every field as sent, in order; see `end_to_end` for what may be forwarded.
        framing: of the body that follows.
        content_length: what the field says, also where no body follows (HEAD, 304); else None.
        keep_alive: another request may be sent on this connection.
        options: lower-case field names listed in Connection.
        remembered: another answer with the same head gets this very object.
    """

    status: int
    reason: bytes
    minor: int
    headers: Sequence[Field]
    framing: Framing
    content_length: int | None
    keep_alive: bool
    options: frozenset[bytes]
    remembered: bool = False


@by_bytes
def parse_request_head(data: bytes) -> RequestHead:
    """Return the request head in `data`, which ends with the empty line.

    Raises:
        BadRequest: with the status to answer.
    """
    line = _REQUEST_LINE.match(data)
    if line is None:
        _refuse_request_line(data)
    method, target, major, minor_digit = line.groups()
    minor = _request_version(major, minor_digit)
    _check_target(method, target)
    try:
        headers = parse_fields(data, line.end())
        control = read_control(headers)
    except NotUnderstood as exc:
        raise BadRequest(501, str(exc)) from exc
    except Malformed as exc:
        raise BadRequest(400, str(exc)) from exc
    if len(headers) > MAX_FIELDS:
        raise BadRequest(431, f"more than {MAX_FIELDS} header fields")
    if control.hosts != 1 and (minor or control.hosts):
        raise BadRequest(400, "a request has exactly one Host field")
    framing = _request_framing(control, minor)
    if method == b"CONNECT" and framing is not NO_BODY:
        raise BadRequest(400, "a CONNECT has no body; what follows it goes through the tunnel")
    return RequestHead(
        method,
        target,
        minor,
        headers,
        framing,
        _keeps_alive(control.options, minor) and _may_be_kept(method, target, minor),
        minor == 1 and _expects_continue(control.expect),
        bool(control.te) and takes_trailers(control.te),
        control.options,
        control.upgrade if minor and framing.empty and may_switch(control) else b"",
        is_remembered(data, (name for name, _ in headers)),
    )


@by_bytes
def parse_response_head(data: bytes, method: bytes) -> ResponseHead:
    """Return the response head in `data`, which ends with the empty line.

    Args:
        data: the head.
        method: of the request that it answers: an answer to HEAD has no body.

    Raises:
        BadResponse: it is none.
    """
    line = _STATUS_LINE.match(data)
    if line is None:
        raise BadResponse("the answer does not begin with an HTTP/1 status line")
    major, minor_digit, status_digits, reason = line.groups()
    if major != b"1" or minor_digit not in b"01":
        raise BadResponse("the answer's version is not HTTP/1.0 or HTTP/1.1")
    minor, status = int(minor_digit), int(status_digits)
    try:
        headers = parse_fields(data, line.end())
        control = read_control(headers)
    except Malformed as exc:
        raise BadResponse(str(exc)) from exc
    if len(headers) > MAX_FIELDS:
        raise BadResponse(f"more than {MAX_FIELDS} header fields")
    return ResponseHead(
        status,
        reason or b"",
        minor,
        headers,
        _response_framing(control, minor, status, method),
        control.length,
        _keeps_alive(control.options, minor),
        control.options,
        is_remembered(data, (name for name, _ in headers)),
    )


def parse_trailers(data: bytes) -> list[Field]:
    """Return the trailer fields in `data`, each line ended by CRLF, that may be passed on.

    Fields that would change the message's framing, routing or connection are dropped.

    Raises:
        ValueError: a line is no field line, or there are too many.
    """
    try:
        trailers = parse_fields(data, 0)
    except Malformed as exc:
        raise ValueError(str(exc)) from exc
    if len(trailers) > MAX_FIELDS:
        raise ValueError(f"more than {MAX_FIELDS} trailer fields")
    return [field for field in trailers if field[0].lower() not in _NOT_IN_TRAILERS]


def end_to_end(head: RequestHead | ResponseHead) -> list[Field]:
    """Return the fields of `head` that a proxy passes on, as a list that the caller may change.

    Left out are hop-by-hop fields (RFC 9110 §7.6.1), those that Connection lists, and the two that
    frame the body, because who writes the message frames it.
    """
    dropped = HOP_BY_HOP | head.options if head.options else HOP_BY_HOP
    return [field for field in head.headers if field[0].lower() not in dropped]


def has_no_body(status: int) -> bool:
    """Return whether an answer with this status never has a body (RFC 9112 §6.3)."""
    return status < FINAL or status in _BODILESS


def is_grpc(head: RequestHead) -> bool:
    """Return whether a request is a call of gRPC."""
    kind = get(head.headers, b"content-type")
    return kind is not None and kind[: len(_GRPC)] == _GRPC and kind[len(_GRPC) :][:1] in b"+;"


def get(headers: Iterable[Field], name: bytes) -> bytes | None:
    """Return the first value of the field called `name`, which is given in lower case."""
    for field_name, value in headers:
        if field_name.lower() == name:
            return value
    return None


def serialise_request(
    method: bytes, target: bytes, headers: Sequence[Field], more: Sequence[Field] = ()
) -> bytes:
    """Return a request head as bytes, the empty line included; `more` are the last fields.

    Raises:
        ValueError: something in it contains a line end.
    """
    return head_of(b"%b %b HTTP/1.1", (method, target), headers, more)


def serialise_response(
    status: int, reason: bytes, headers: Sequence[Field], more: Sequence[Field] = ()
) -> bytes:
    """Return a response head as bytes, the empty line included; `more` are the last fields.

    Raises:
        ValueError: something in it contains a line end.
    """
    return head_of(b"HTTP/1.1 %d %b", (status, reason), headers, more)


def framing_fields(framing: Framing) -> tuple[Field, ...]:
    """Return the fields that announce `framing`."""
    if framing.kind is BodyKind.LENGTH:
        return _length_field(framing.length)
    if framing.kind is BodyKind.CHUNKED:
        return ((b"Transfer-Encoding", b"chunked"),)
    return ()


@lru_cache(maxsize=1024)
def _length_field(length: int) -> tuple[Field, ...]:
    return ((b"Content-Length", b"%d" % length),)


@lru_cache(maxsize=128)
def reason_phrase(status: int) -> bytes:
    """Return the standard reason phrase of `status`, or nothing for an unknown one."""
    try:
        return HTTPStatus(status).phrase.encode("ascii")
    except ValueError:
        return b""


def why_never_a_head(data: bytes, looked_at: int = 0) -> str | None:
    """Return why these first bytes can never become a request head, if that is known already.

    The first `looked_at` of them were asked about before, less the last three.

    It answers at once where waiting for the empty line would end in a timeout: TLS sent to a plain
    port, and lines ended by a bare LF.
    """
    if data[:1] < b"!" or data[:1] > b"~":
        return "this is no HTTP/1 request (TLS, perhaps)"
    if _BARE_LF.search(data, looked_at):
        return "a line ends in LF alone; HTTP/1 needs CR LF"
    return None


def _keeps_alive(options: frozenset[bytes], minor: int) -> bool:
    if minor:
        return b"close" not in options
    return b"keep-alive" in options and b"close" not in options


def _may_be_kept(method: bytes, target: bytes, minor: int) -> bool:
    """Whether another request may follow, if the client wishes.

    Not where it takes us for a proxy in HTTP/1.0 (RFC 9112 §9.3), nor behind a CONNECT, because
    what a client hopes to send through a tunnel is no request where there is none.
    """
    return method != b"CONNECT" and (minor == 1 or target.startswith(b"/"))


def _request_framing(control: Control, minor: int) -> Framing:
    if control.chunked:
        if not minor:
            raise BadRequest(400, "HTTP/1.0 has no Transfer-Encoding")
        return CHUNKED
    return NO_BODY if control.length is None else Framing(BodyKind.LENGTH, control.length)


def _response_framing(control: Control, minor: int, status: int, method: bytes) -> Framing:
    if control.chunked and not minor:
        raise BadResponse("HTTP/1.0 has no Transfer-Encoding")
    if method == b"HEAD" or has_no_body(status):
        return NO_BODY
    if control.chunked:
        return CHUNKED
    return UNTIL_CLOSE if control.length is None else Framing(BodyKind.LENGTH, control.length)


def _expects_continue(expect: bytes) -> bool:
    if not expect:
        return False
    if expect.lower() != b"100-continue":
        raise BadRequest(417, "the only expectation understood is 100-continue")
    return True


def _request_version(major: bytes, minor: bytes) -> int:
    if major != b"1" or minor not in {b"0", b"1"}:
        raise BadRequest(505, "only HTTP/1.0 and HTTP/1.1 are spoken here")
    return int(minor)


def _check_target(method: bytes, target: bytes) -> None:
    if len(target) > MAX_TARGET_BYTES:
        raise BadRequest(414, f"the target is longer than {MAX_TARGET_BYTES} bytes")
    if method == b"CONNECT":
        if not _AUTHORITY.fullmatch(target):
            raise BadRequest(400, "the target of CONNECT is `host:port`")
        return
    if b"#" in target:
        raise BadRequest(400, "the target contains a fragment")
    if target.startswith(b"/") or (target == b"*" and method == b"OPTIONS"):
        return
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute is None or not HOST.fullmatch(absolute.group(1)):
        raise BadRequest(400, "the target is neither a path nor an absolute URL")


def _refuse_request_line(data: bytes) -> NoReturn:
    line = data.partition(b"\r\n")[0]
    if len(line) > MAX_TARGET_BYTES:
        raise BadRequest(414, f"the request line is longer than {MAX_TARGET_BYTES} bytes")
    shown = line[:60].decode("ascii", "backslashreplace")
    raise BadRequest(400, f"{shown!r} is not `METHOD TARGET HTTP/1.1`")
