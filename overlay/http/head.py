"""Heads of HTTP/1 messages: bytes to fields and back, and where the body ends (RFC 9110, RFC 9112).

A proxy that reads a message differently from the server behind it lets a client smuggle a second
request past it. So everything on which two readers could disagree is refused here, and nothing is
passed on unparsed: the forwarded head is written anew from the fields, and the body is framed anew.

Refused on purpose where RFC 9112 leaves a choice: lines that end in a bare LF (§2.2), obs-fold
(§5.2), repeated Content-Length even if equal (§6.3), Content-Length beside Transfer-Encoding
(§6.3), any transfer coding but a single `chunked` (§6.1), minor versions above 1, non-ASCII or `#`
in the target, and a CONNECT that announces a body (§6.3 would have it ignored).

One compiled expression takes all field lines at once; as many matches as line feeds prove that
every line was a field line, because a match begins at a line start, ends in CRLF and contains no
other control character. Measured, this costs as much as httptools with callbacks (1.5 against
1.3 µs for curl's head, 6.4 against 3.5 µs for fifteen fields), which would still need the same
check in front.
"""

import re
from collections.abc import Iterable, Sequence
from enum import Enum
from functools import lru_cache
from http import HTTPStatus
from typing import NamedTuple, NoReturn

from overlay.http.errors import BadRequest, BadResponse
from overlay.http.remembering import by_bytes, is_remembered

Field = tuple[bytes, bytes]
"""A field's name and value, the name in the sender's case."""

MAX_HEAD_BYTES = 64 * 1024
"""Twice what common servers take, so that what they would refuse is theirs to refuse."""
MAX_TARGET_BYTES = 16 * 1024
"""RFC 9112 §3 asks for 8,000 at least."""
MAX_FIELDS = 128
FINAL = 200
"""Statuses below are interim answers."""
MAX_LENGTH = 2**63 - 1
"""What a signed 64-bit reader behind us can still represent."""

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
_REQUEST_LINE = re.compile(rb"(%b++) ([\x21-\x7e]++) HTTP/([0-9])\.([0-9])\r\n" % _TOKEN)
_STATUS_LINE = re.compile(
    rb"HTTP/([0-9])\.([0-9]) ([1-5][0-9][0-9])(?: ([\t\x20-\x7e\x80-\xff]*+))?\r\n"
)
_FIELD_LINE = re.compile(
    rb"^(%b++):[ \t]*+([^\x00-\x08\x0a-\x1f\x7f]*+)\r\n" % _TOKEN, re.MULTILINE
)
_TOKENS = re.compile(rb"[ \t]*(?:%b++)?[ \t]*(?:,[ \t]*(?:%b++)?[ \t]*)*+" % (_TOKEN, _TOKEN))
_HOST = re.compile(rb"(?:\[[0-9A-Za-z:.%]++\]|[A-Za-z0-9\-._~!$&'()*+,;=%]*+)(?::[0-9]{0,5})?")
_ABSOLUTE = re.compile(rb"[A-Za-z][A-Za-z0-9+\-.]*+://([^/?#@]++)(?:[/?].*)?")
_AUTHORITY = re.compile(rb"(?:\[[0-9A-Za-z:.%]++\]|[A-Za-z0-9\-._~!$&'()*+,;=%]++):[0-9]{1,5}")
_PROTOCOLS = re.compile(rb"%b++(?:/%b++)?(?:[ \t]*,[ \t]*%b++(?:/%b++)?)*+" % ((_TOKEN,) * 4))
_LENGTH = re.compile(rb"[0-9]{1,19}")
_BARE_LF = re.compile(rb"(?<!\r)\n")

_BODILESS = frozenset({int(HTTPStatus.NO_CONTENT), int(HTTPStatus.NOT_MODIFIED)})
_FRAMING_NAMES = frozenset({b"content-length", b"transfer-encoding"})
HOP_BY_HOP = _FRAMING_NAMES | {
    b"connection",
    b"keep-alive",
    b"proxy-authenticate",
    b"proxy-authorization",
    b"proxy-connection",
    b"te",
    b"upgrade",
}
_READ_HERE = _FRAMING_NAMES | {b"connection", b"expect", b"host", b"te", b"upgrade"}
_NEVER_SWITCHED_TO = (b"h2c", b"http/", b"tls/")
"""To let these pass would let a client speak past every check of this package, or past TLS."""
_NEVER_CONNECTION_OPTIONS = frozenset({b"host", b"expect"})
"""A client that lists these would have us send another message than the one it is judged by."""
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


class _Malformed(Exception):
    """Something that is wrong in a request and in a response alike."""


class _NotUnderstood(_Malformed):
    """A request that may be right and asks for what is not offered (RFC 9112 §6.1)."""


class _Control(NamedTuple):
    """The fields that decide about the message and its connection."""

    length: int | None
    chunked: bool
    options: frozenset[bytes]
    hosts: int
    expect: bytes
    te: bytes
    upgrade: bytes


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
        headers = _parse_fields(data, line.end())
        control = _read_control(headers)
    except _NotUnderstood as exc:
        raise BadRequest(501, str(exc)) from exc
    except _Malformed as exc:
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
        bool(control.te) and _takes_trailers(control.te),
        control.options,
        control.upgrade if minor and framing.empty and _may_switch(control) else b"",
        is_remembered(data),
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
        headers = _parse_fields(data, line.end())
        control = _read_control(headers)
    except _Malformed as exc:
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
        is_remembered(data),
    )


def parse_trailers(data: bytes) -> list[Field]:
    """Return the trailer fields in `data`, each line ended by CRLF, that may be passed on.

    Fields that would change the message's framing, routing or connection are dropped.

    Raises:
        ValueError: a line is no field line, or there are too many.
    """
    try:
        fields = _parse_fields(data, 0)
    except _Malformed as exc:
        raise ValueError(str(exc)) from exc
    if len(fields) > MAX_FIELDS:
        raise ValueError(f"more than {MAX_FIELDS} trailer fields")
    return [field for field in fields if field[0].lower() not in _NOT_IN_TRAILERS]


def end_to_end(head: RequestHead | ResponseHead) -> list[Field]:
    """Return the fields of `head` that a proxy passes on, as a list that the caller may change.

    Left out are hop-by-hop fields (RFC 9110 §7.6.1), those that Connection lists, and the two that
    frame the body, because who writes the message frames it.
    """
    dropped = HOP_BY_HOP | head.options if head.options else HOP_BY_HOP
    return [field for field in head.headers if field[0].lower() not in dropped]


def protocols(upgrade: bytes) -> frozenset[bytes]:
    """Return the lower-case protocols that an Upgrade field's value lists."""
    return frozenset({one.strip(b" \t").lower() for one in upgrade.split(b",")} - {b""})


def has_no_body(status: int) -> bool:
    """Return whether an answer with this status never has a body (RFC 9112 §6.3)."""
    return status < FINAL or status in _BODILESS


def get(headers: Iterable[Field], name: bytes) -> bytes | None:
    """Return the first value of the field called `name`, which is given in lower case."""
    for field_name, value in headers:
        if field_name.lower() == name:
            return value
    return None


def serialise_request(method: bytes, target: bytes, headers: Sequence[Field]) -> bytes:
    """Return a request head as bytes, the empty line included.

    Raises:
        ValueError: something in it contains a line end.
    """
    return _serialise(b"%b %b HTTP/1.1\r\n" % (method, target), headers)


def serialise_response(status: int, reason: bytes, headers: Sequence[Field]) -> bytes:
    """Return a response head as bytes, the empty line included.

    Raises:
        ValueError: something in it contains a line end.
    """
    return _serialise(b"HTTP/1.1 %d %b\r\n" % (status, reason), headers)


def framing_fields(framing: Framing) -> tuple[Field, ...]:
    """Return the fields that announce `framing`."""
    if framing.kind is BodyKind.LENGTH:
        return ((b"Content-Length", b"%d" % framing.length),)
    if framing.kind is BodyKind.CHUNKED:
        return ((b"Transfer-Encoding", b"chunked"),)
    return ()


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


def _serialise(first_line: bytes, headers: Sequence[Field]) -> bytes:
    lines = [b"%b: %b\r\n" % field for field in headers]
    head = b"%b%b\r\n" % (first_line, b"".join(lines))
    if head.count(b"\n") != len(lines) + 2 or head.count(b"\r") != len(lines) + 2:
        raise ValueError("a field to be sent contains a line end")
    return head


def _parse_fields(data: bytes, start: int) -> list[Field]:
    fields: list[Field] = _FIELD_LINE.findall(data, start)
    ends_empty = data.endswith(b"\r\n\r\n")
    if data.count(b"\n", start) != len(fields) + ends_empty:
        raise _Malformed(_what_is_wrong(data[start:]))
    if b" \r\n" in data or b"\t\r\n" in data:
        fields = [(name, value.rstrip(b" \t")) for name, value in fields]
    return fields


def _what_is_wrong(block: bytes) -> str:
    for line in block.split(b"\r\n"):
        shown = line[:60].decode("ascii", "backslashreplace")
        if line[:1] in {b" ", b"\t"}:
            return f"the header line {shown!r} is folded, which is obsolete"
        name, colon, _ = line.partition(b":")
        if colon and name != name.rstrip(b" \t"):
            return f"the header line {shown!r} has white space before its colon"
        if line and not _FIELD_LINE.fullmatch(line + b"\r\n"):
            return f"the header line {shown!r} is not `name: value` without control characters"
    return "a header line is malformed"


def _read_control(headers: Sequence[Field]) -> _Control:
    length: int | None = None
    chunked = False
    options = expect = te = upgrade = b""
    hosts = 0
    for name, value in headers:
        lower = name.lower()
        if lower not in _READ_HERE:
            continue
        match lower:
            case b"host":
                _check_host(value)
                hosts += 1
            case b"content-length":
                length = _content_length(value, length)
            case b"transfer-encoding":
                _check_coding(value, chunked=chunked)
                chunked = True
            case b"connection":
                options = b"%b,%b" % (options, value) if options else value
            case b"expect":
                expect = b"%b,%b" % (expect, value) if expect else value
            case b"te":
                te = b"%b,%b" % (te, value) if te else value
            case _:
                upgrade = b"%b, %b" % (upgrade, value) if upgrade else value
    if chunked and length is not None:
        raise _Malformed("Content-Length and Transfer-Encoding contradict each other")
    return _Control(length, chunked, _connection_options(options), hosts, expect, te, upgrade)


def _check_host(value: bytes) -> None:
    if not _HOST.fullmatch(value):
        raise _Malformed("the Host field is not `host` or `host:port`")


def _check_coding(value: bytes, *, chunked: bool) -> None:
    if value.lower() == b"chunked" and not chunked:
        return
    codings = [coding.strip(b" \t").lower() for coding in value.split(b",")]
    if not chunked and codings[-1] == b"chunked" and codings.count(b"chunked") == 1:
        raise _NotUnderstood("the only transfer coding understood here is `chunked`")
    raise _Malformed("where the body ends cannot be told: Transfer-Encoding is not one `chunked`")


def _content_length(value: bytes, earlier: int | None) -> int:
    if earlier is not None:
        raise _Malformed("Content-Length is there more than once")
    if not _LENGTH.fullmatch(value) or int(value) > MAX_LENGTH:
        raise _Malformed("Content-Length is not one whole number of bytes")
    return int(value)


_NO_OPTIONS: frozenset[bytes] = frozenset()


@lru_cache(maxsize=256)
def _connection_options(value: bytes) -> frozenset[bytes]:
    if not value:
        return _NO_OPTIONS
    if not _TOKENS.fullmatch(value):
        raise _Malformed("the Connection field is not a list of names")
    options = {option.strip(b" \t").lower() for option in value.split(b",")} - {b""}
    return frozenset(options - _NEVER_CONNECTION_OPTIONS)


def _keeps_alive(options: frozenset[bytes], minor: int) -> bool:
    if minor:
        return b"close" not in options
    return b"keep-alive" in options and b"close" not in options


@lru_cache(maxsize=64)
def _takes_trailers(te: bytes) -> bool:
    return b"trailers" in {coding.strip(b" \t").lower() for coding in te.split(b",")}


def _may_switch(control: _Control) -> bool:
    """Whether the client asks for another protocol, and for one that may be let pass."""
    upgrade = control.upgrade
    if not upgrade or b"upgrade" not in control.options or not _PROTOCOLS.fullmatch(upgrade):
        return False
    return not any(p.startswith(_NEVER_SWITCHED_TO) for p in protocols(upgrade))


def _may_be_kept(method: bytes, target: bytes, minor: int) -> bool:
    """Whether another request may follow, if the client wishes.

    Not where it takes us for a proxy in HTTP/1.0 (RFC 9112 §9.3), nor behind a CONNECT, because
    what a client hopes to send through a tunnel is no request where there is none.
    """
    return method != b"CONNECT" and (minor == 1 or target.startswith(b"/"))


def _request_framing(control: _Control, minor: int) -> Framing:
    if control.chunked:
        if not minor:
            raise BadRequest(400, "HTTP/1.0 has no Transfer-Encoding")
        return CHUNKED
    return NO_BODY if control.length is None else Framing(BodyKind.LENGTH, control.length)


def _response_framing(control: _Control, minor: int, status: int, method: bytes) -> Framing:
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
    if absolute is None or not _HOST.fullmatch(absolute.group(1)):
        raise BadRequest(400, "the target is neither a path nor an absolute URL")


def _refuse_request_line(data: bytes) -> NoReturn:
    line = data.partition(b"\r\n")[0]
    if len(line) > MAX_TARGET_BYTES:
        raise BadRequest(414, f"the request line is longer than {MAX_TARGET_BYTES} bytes")
    shown = line[:60].decode("ascii", "backslashreplace")
    raise BadRequest(400, f"{shown!r} is not `METHOD TARGET HTTP/1.1`")
