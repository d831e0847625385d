"""One request forwarded and its answer brought back, both streamed, nothing passed on unparsed.

The common case (no body to wait for, an answer that comes soon and is small) is one send each
way and no task besides the caller's. Tasks are started only where two things must be waited for:
a request body that is still arriving while the answer may already come, and a client that may leave
while the upstream is slow.

The order of ends decides who may be used again. An upstream that answered before it had the whole
request is closed, and so is the client's connection after the answer, since what it still sends
could not be told from a next request (RFC 9112 §9.3).
"""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from http import HTTPStatus
from math import inf
from time import perf_counter
from typing import NamedTuple

import trio

from overlay.http.errors import (
    BadRequest,
    BadResponse,
    ClientGone,
    MalformedBody,
    ResponseCut,
    UpstreamFailed,
)
from overlay.http.fields import protocols
from overlay.http.head import (
    FINAL,
    NO_BODY,
    BodyKind,
    Field,
    Framing,
    RequestHead,
    ResponseHead,
    end_to_end,
    framing_fields,
    get,
)
from overlay.http.seam import Client, ClientBody, Upstream
from overlay.http.transport import SendFailed

WATCH_AFTER_S = 0.2
"""Seconds of silence from the upstream after which the client is watched. Below, it is not worth
the two tasks, which would come just where there is no time for them: on a machine so busy that
every answer takes 50 ms, they were a seventh of the proxy's work."""
HELD_BYTES = 16 * 1024
"""An answer with a length up to this is kept until all of it is there, so that one which breaks off
fails as if it had not begun. Many servers send head and body apart; they leave in one send, too."""
HELD_S = 0.1
"""Seconds without a byte after which the part that is there is passed on after all."""
CONTINUE_AFTER_S = 1.0
"""Seconds without a word of the upstream after which a client is told to send the body that it
expects to be asked for; curl waits as long."""
MAX_INFORMATIONAL = 32
"""1xx answers to one request; more is a broken server."""

_SWITCHING = int(HTTPStatus.SWITCHING_PROTOCOLS)
_NOT_MODIFIED = int(HTTPStatus.NOT_MODIFIED)
_BAD_REQUEST = int(HTTPStatus.BAD_REQUEST)
_UPGRADE_REQUIRED = int(HTTPStatus.UPGRADE_REQUIRED)
"""Looked up once: a member of an enumeration is found by a call of Python."""
_UPGRADE: Field = (b"Connection", b"Upgrade")


class Moved(NamedTuple):
    """What was carried after a change of the protocol, in bytes, seen from the client."""

    sent: int
    received: int


Switched = Callable[[Sequence[Field]], Awaitable[Moved]]
"""Answers 101 with these fields, then carries bytes between client and upstream to the end."""

EditResponse = Callable[[ResponseHead], Sequence[Field]]


class Exchanged(NamedTuple):
    """A request that was answered to its end.

    Attributes:
        status: of the final answer.
        sent_bytes: of the answer's body, to the client.
        received_bytes: of the request's body, from the client.
        first_byte_s: seconds until the answer's head was there.
        total_s: seconds until the client had been sent all of it, or the protocol was changed.
    """

    status: int
    sent_bytes: int
    received_bytes: int
    first_byte_s: float
    total_s: float


async def exchange(
    client: Client,
    head: RequestHead,
    upstream: Upstream,
    *,
    request_headers: Sequence[Field],
    edit_response: EditResponse,
    edit_interim: EditResponse = end_to_end,
    target: bytes | None = None,
    head_timeout_s: float = inf,
    switched: Switched | None = None,
    watched: bool = False,
) -> Exchanged:
    """Forward the request and stream its answer to the client.

    Args:
        client: whose request it is, with its body; the body is begun anew after a failed attempt.
        head: of the request.
        upstream: a connection without an exchange under way.
        request_headers: to send, without framing fields; see `end_to_end`. Host is among them.
        edit_response: gets the final answer's head, returns the fields to send, without framing
            fields. It may raise to keep the answer from the client, who is then still unanswered;
            the exception passes through.
        edit_interim: the same of each 1xx answer that is passed on.
        target: to ask for; the client's if None.
        head_timeout_s: seconds for the final answer's head, counted from the last byte sent.
        switched: answers and carries on, to the end, where both change their protocol; without it
            the client's wish to do so is not passed on.
        watched: somebody else looks whether the client leaves.

    Raises:
        UpstreamFailed: before the client was answered.
        BadRequest: the request's body is malformed or stalled; the client is not answered.
        ClientGone: the client left.
        ResponseCut: the upstream, or the request's body, failed while the client was answered.
        ValueError: the body has to be sent again and is not replayable, or a field is malformed.
    """
    if head.method == b"CONNECT":
        raise BadRequest(501, "CONNECT is not offered here")
    run = _Exchange(client, head, upstream, edit_response, edit_interim, head_timeout_s, switched)
    run.sending = watched
    client.body.rewind()
    fields = request_headers
    if head.takes_trailers:
        fields = [*fields, (b"TE", b"trailers"), (b"Connection", b"TE")]
    if head.upgrade and switched is not None:
        fields = [*fields, (b"Upgrade", head.upgrade), _UPGRADE]
    target = target or head.target
    if not run.held_request(target, fields):
        await run.send_request(target, fields)
    if run.request_sent:
        await run.answer()
    else:
        await run.answer_while_sending()
    return run.exchanged()


class _Exchange:
    """The state of one exchange."""

    __slots__ = (
        "body",
        "client",
        "continued",
        "edit_interim",
        "edit_response",
        "failure",
        "first_byte_at",
        "head",
        "head_timeout_s",
        "moved",
        "payload",
        "request_sent",
        "sending",
        "sent_any_body",
        "sent_bytes",
        "started_at",
        "status",
        "switched",
        "upstream",
    )

    def __init__(
        self,
        client: Client,
        head: RequestHead,
        upstream: Upstream,
        edit_response: EditResponse,
        edit_interim: EditResponse,
        head_timeout_s: float,
        switched: Switched | None,
    ) -> None:
        self.switched = switched
        self.moved: Moved | None = None
        self.client = client
        self.head = head
        self.upstream = upstream
        self.edit_response = edit_response
        self.edit_interim = edit_interim
        self.head_timeout_s = head_timeout_s
        self.body: ClientBody = client.body
        self.payload = b""  # what there was of the request's body at first
        self.request_sent = False
        self.sending = False  # another task reads the client, and so sees it leave
        self.sent_any_body = False
        self.continued = False  # the client was told to send the body that it announced
        self.failure: Exception | None = None
        self.status = 0
        self.sent_bytes = 0
        self.started_at = perf_counter()
        self.first_byte_at = self.started_at

    def exchanged(self) -> Exchanged:
        """Return what was done."""
        if self.moved is not None:
            stood_s = self.first_byte_at - self.started_at
            return Exchanged(self.status, self.moved.received, self.moved.sent, stood_s, stood_s)
        return Exchanged(
            self.status,
            self.sent_bytes,
            self.body.received,
            self.first_byte_at - self.started_at,
            perf_counter() - self.started_at,
        )

    def held_request(self, target: bytes, fields: Sequence[Field]) -> bool:
        """Return whether the upstream took the request, which is so if all of it is there."""
        body = self.body
        self.payload = b"" if body.framing is NO_BODY else body.take()
        self.sent_any_body = bool(self.payload)
        self.request_sent = body.framing is NO_BODY or body.consumed
        return self.request_sent and self.upstream.hold_request(
            self.head.method, target, fields, body.framing, self.payload
        )

    async def send_request(self, target: bytes, fields: Sequence[Field]) -> None:
        """Send the head, and of the body what there is already."""
        try:
            await self.upstream.send_request(
                self.head.method,
                target,
                fields,
                self.body.framing,
                self.payload,
                trailers=self.body.trailers if self.request_sent else None,
            )
        except SendFailed as exc:
            raise self._not_sent(exc) from exc

    async def answer(self) -> None:
        """Bring the answer to the client."""
        response, payload = await self._receive_head()
        done = self.upstream.body.done
        if done and self.request_sent:
            self.upstream.finish(response)  # whatever becomes of the client
        fields = self.edit_response(response)
        self.status = response.status
        if response.status == _SWITCHING and self.switched is not None:
            self.moved = await self.switched([*fields, *_upgrade_of(response)])
            return
        if not self.request_sent and response.status >= _BAD_REQUEST:
            self.client.must_close = True  # most likely the rest of the body is unwanted
        if response.framing is NO_BODY or response.status == _UPGRADE_REQUIRED:
            fields = self._with_own(response, fields)
        self.sent_bytes = len(payload)
        if not done or not self.client.hold_response(
            response.status, response.reason, fields, response.framing, payload
        ):
            await self._start(response, fields, payload)
        if done:
            return
        while not self.upstream.body.done:
            await self._relay()
        if self.request_sent:
            self.upstream.finish(response)

    async def answer_while_sending(self) -> None:
        """Bring the answer to the client while the rest of the request's body is sent."""
        self.sending = True
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._send_body, nursery.cancel_scope)
            if self.head.expects_continue:
                nursery.start_soon(self._ask_for_body)
            try:
                await self.answer()
            except Exception as exc:  # noqa: BLE001 - raised again outside, so that no group wraps it
                self.failure = self.failure or exc
            nursery.cancel_scope.cancel()
        if not self.request_sent:
            self.client.must_close = True
        if isinstance(self.failure, BadRequest) and self.client.answering:
            await self.client.abort()
            raise ResponseCut(self.status, self.failure.reason) from self.failure
        if self.failure is not None:
            raise self.failure

    async def _send_body(self, scope: trio.CancelScope) -> None:
        """Send the rest of the request's body, then watch the client; its faults end it all."""
        try:
            while not self.request_sent:
                payload = await self.body.receive()
                self.sent_any_body = self.sent_any_body or bool(payload)
                ended = self.body.consumed
                trailers = self.body.trailers if ended else None
                await self.upstream.send_body(payload, trailers=trailers)
                self.request_sent = ended
            await self.client.until_gone()
            self.failure = ClientGone("the client left before it was answered")
        except SendFailed:
            return  # the upstream may have answered before it stopped reading
        except (BadRequest, ClientGone) as exc:
            self.failure = exc
        scope.cancel()

    async def _receive_head(self) -> tuple[ResponseHead, bytes]:
        """Wait for the final answer's head; return it with what of its body came along."""
        try:
            if self.sending:
                received = await self._receive_while_sending(self.head_timeout_s)
            else:
                received = await self.upstream.receive(min(self.head_timeout_s, WATCH_AFTER_S))
                if received is None:
                    received = await self._receive_later(self.head_timeout_s)
            whole = self.upstream.take_whole(received or b"", self.head.method)
            if whole is not None:
                self.first_byte_at = perf_counter()
                return whole
            informational = 0
            head = await self._next_head(received)
            while head.status < FINAL and not self._switches(head):
                informational += 1
                _check_informational(head, informational)
                await self._pass_on(head)
                head = self.upstream.take_head(b"", self.head.method) or await self._next_head(
                    await self._receive(self.head_timeout_s)
                )
            self.first_byte_at = perf_counter()
            payload = self.upstream.take_body()
        except SendFailed as exc:
            raise self._not_sent(exc) from exc
        except trio.BrokenResourceError as exc:
            raise self._failed("the connection broke before it answered") from exc
        except (BadResponse, MalformedBody) as exc:
            raise self._failed(f"its answer is malformed: {exc.reason}", malformed=True) from exc
        if not self.upstream.body.done and _is_small(head):
            payload += await self._rest()
        return head, payload

    async def _rest(self) -> bytes:
        """Return the rest of a small answer's body, or what came of it before it paused."""
        parts = list[bytes]()
        try:
            while not self.upstream.body.done:
                data = await self._receive(HELD_S)
                if data is None:
                    break
                parts.append(self.upstream.take_body(data))
        except (trio.BrokenResourceError, MalformedBody) as exc:
            raise self._failed("the connection broke in the midst of its answer", cut=True) from exc
        return b"".join(parts)

    async def _pass_on(self, head: ResponseHead) -> None:
        if head.status == HTTPStatus.CONTINUE:
            if self.continued:
                return
            self.continued = True
        await self.client.send_informational(head.status, head.reason, self.edit_interim(head))

    async def _ask_for_body(self) -> None:
        """Ask for the body if the upstream does not (RFC 9110 §10.1.1), as one of HTTP/1.0.

        A client that waits for ever would otherwise do so.
        """
        await trio.sleep(CONTINUE_AFTER_S)
        if not (self.continued or self.client.answering or self.body.received):
            self.continued = True
            with suppress(ClientGone):  # who reads the body finds out as well
                await self.client.send_informational(HTTPStatus.CONTINUE, b"Continue", ())

    def _switches(self, head: ResponseHead) -> bool:
        """Whether the upstream changes to a protocol that the client asked for, and could."""
        if head.status != _SWITCHING or self.switched is None:
            return False
        chosen = protocols(get(head.headers, b"upgrade") or b"")
        return bool(chosen) and chosen <= protocols(self.head.upgrade)

    async def _next_head(self, received: bytes | None) -> ResponseHead:
        while True:
            if received is None:
                text = f"no answer within {self.head_timeout_s:g} s"
                raise self._failed(text, timed_out=True)
            if not received:
                raise self._failed("it closed the connection before it answered")
            head = self.upstream.take_head(received, self.head.method)
            if head is not None:
                return head
            received = await self._receive(self.head_timeout_s)

    def _with_own(self, response: ResponseHead, fields: Sequence[Field]) -> Sequence[Field]:
        """Return the fields to send with what the message's framing does not say."""
        if response.framing is NO_BODY and response.content_length is not None:
            fields = [*fields, *self._length_without_body(response, response.content_length)]
        if response.status == _UPGRADE_REQUIRED:
            fields = [*fields, *_upgrade_of(response)]
        return fields

    async def _start(self, response: ResponseHead, fields: Sequence[Field], payload: bytes) -> None:
        decoder = self.upstream.body
        await self.client.start_response(
            response.status,
            response.reason,
            fields,
            response.framing,
            payload,
            trailers=decoder.trailers if decoder.done else None,
        )

    def _length_without_body(self, response: ResponseHead, length: int) -> tuple[Field, ...]:
        """Keep what HEAD and 304 tell of a body that they do not send."""
        if response.status == _NOT_MODIFIED or self.head.method == b"HEAD":
            return framing_fields(Framing(BodyKind.LENGTH, length))
        return ()

    async def _relay(self) -> None:
        """Pass on what comes next of the answer's body."""
        decoder = self.upstream.body
        try:
            payload = self.upstream.take_body(await self._receive() or b"")
        except (trio.BrokenResourceError, MalformedBody) as exc:
            await self.client.abort()
            raise ResponseCut(self.status, str(exc)) from exc
        trailers = decoder.trailers if decoder.done else None
        await self.client.send_body(payload, trailers=trailers)
        self.sent_bytes += len(payload)

    async def _receive(self, within_s: float = inf) -> bytes | None:
        """Return what the upstream sent, b"" at its end, None if nothing came in time.

        Raises:
            ClientGone: the client left while nothing came.
        """
        if self.sending:
            return await self._receive_while_sending(within_s)
        data = await self.upstream.receive(min(within_s, WATCH_AFTER_S))
        return await self._receive_later(within_s) if data is None else data

    async def _receive_later(self, within_s: float) -> bytes | None:
        """Go on waiting after a first silence, and watch the client meanwhile."""
        if within_s <= WATCH_AFTER_S:
            return None
        return await self._receive_watching(within_s - WATCH_AFTER_S)

    async def _receive_while_sending(self, within_s: float) -> bytes | None:
        while True:
            began_sent = self.request_sent
            data = await self.upstream.receive(within_s)
            if data is not None or began_sent:
                return data

    async def _receive_watching(self, within_s: float) -> bytes | None:
        data: bytes | None = None
        broken: trio.BrokenResourceError | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch, nursery.cancel_scope)
            try:
                data = await self.upstream.receive(within_s)
            except trio.BrokenResourceError as exc:
                broken = exc
            nursery.cancel_scope.cancel()
        if self.failure is not None:
            raise self.failure
        if broken is not None:
            raise broken
        return data

    async def _watch(self, scope: trio.CancelScope) -> None:
        await self.client.until_gone()
        self.failure = ClientGone("the client left before it was answered")
        scope.cancel()

    def _not_sent(self, failure: SendFailed) -> UpstreamFailed:
        reason = "the connection broke while the request was sent"
        return self._failed(reason, maybe_processed=failure.sent != 0)

    def _failed(
        self,
        reason: str,
        *,
        maybe_processed: bool = True,
        malformed: bool = False,
        timed_out: bool = False,
        cut: bool = False,
    ) -> UpstreamFailed:
        return UpstreamFailed(
            reason,
            maybe_processed=maybe_processed and not self.upstream.refused,
            sent_any_body=self.sent_any_body,
            reused=self.upstream.reused and not self.upstream.alone and not cut,
            alone=self.upstream.alone,
            malformed=malformed,
            timed_out=timed_out,
        )


def _is_small(response: ResponseHead) -> bool:
    framing = response.framing
    return framing.kind is BodyKind.LENGTH and framing.length <= HELD_BYTES


def _upgrade_of(response: ResponseHead) -> tuple[Field, ...]:
    """Return the fields that say what an upstream changes to, or wants changed to (426)."""
    value = get(response.headers, b"upgrade")
    return () if value is None else ((b"Upgrade", value), _UPGRADE)


def _check_informational(head: ResponseHead, count: int) -> None:
    if count > MAX_INFORMATIONAL or head.status == _SWITCHING:
        raise BadResponse("it sent interim answers that nobody asked for")
