"""Requests and replies between peers over kept-open streams.

A stream carries one call after the other: a request frame, then one reply frame, or for a watch
many and an end mark. Streams are kept per peer and protocol and used again, because opening one
costs two round trips of negotiation. A reply is either `{"ok": …}` or `{"error": …}`.
"""

from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from functools import partial
from typing import Any, Protocol, TypeVar

import structlog
import trio
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from overlay.errors import MalformedMessage, MyxoError, PeerUnreachable, StreamCut
from overlay.framing import FramedStream
from overlay.names import PeerId

MAX_KEPT_STREAMS = 8
"""Per peer and protocol; a burst above it opens more and closes them afterwards."""

log = structlog.get_logger()

M = TypeVar("M", bound=BaseModel)


class CallRefused(MyxoError):
    """The peer understood the call and said no.

    Attributes:
        code: what the caller can act on.
        details: further values that the peer gave.
    """

    def __init__(self, code: str, text: str, details: dict[str, Any] | None = None) -> None:
        self.code = code
        self.text = text
        self.details = details or {}
        super().__init__(text)


class _Refusal(BaseModel):
    code: str
    text: str = ""
    details: dict[str, Any] = Field(default_factory=dict)


class _Reply(BaseModel):
    model_config = ConfigDict(extra="ignore")

    ok: dict[str, Any] | None = None
    error: _Refusal | None = None


class CallHost(Protocol):
    """What calls need of the libp2p host."""

    async def open_stream(self, peer: PeerId, protocol: str) -> FramedStream:
        """Open a stream to a connected peer."""
        ...

    def handle(
        self, protocol: str, handler: Callable[[PeerId, FramedStream], Awaitable[None]]
    ) -> None:
        """Serve inbound streams of a protocol."""
        ...


class Caller:
    """Makes calls; one a node."""

    def __init__(self, host: CallHost) -> None:
        self._host = host
        self._kept: dict[tuple[PeerId, str], list[FramedStream]] = defaultdict(list)

    async def call(
        self,
        peer: PeerId,
        protocol: str,
        request: BaseModel,
        reply: type[M],
        *,
        timeout_s: float,
    ) -> M:
        """Return the peer's reply.

        Raises:
            CallRefused: the peer said no, and why.
            PeerUnreachable: no answer came within `timeout_s` seconds, or the stream was cut.
            ProtocolRefused: the peer does not speak `protocol`.
            MalformedMessage: the answer is none.
        """
        with trio.move_on_after(timeout_s):
            return _read(reply, await self._exchange(peer, protocol, request))
        raise PeerUnreachable(f"{peer} did not answer {protocol} within {timeout_s:g} s")

    @asynccontextmanager
    async def stream(
        self, peer: PeerId, protocol: str, request: BaseModel, reply: type[M]
    ) -> AsyncIterator[AsyncIterator[M]]:
        """Make a call that is answered by many replies; yield them as they come.

        The iteration ends where the peer ends it and raises as `call` does.
        """
        stream = await self._host.open_stream(peer, protocol)
        try:
            await stream.send(request.model_dump_json().encode())
            async with aclosing(_replies(stream, reply)) as replies:
                yield replies
        finally:
            with trio.CancelScope(shield=True):
                await stream.aclose()

    def forget(self, peer: PeerId) -> None:
        """Drop the kept streams of a peer whose connection ended."""
        for key in [k for k in self._kept if k[0] == peer]:
            del self._kept[key]

    async def _exchange(self, peer: PeerId, protocol: str, request: BaseModel) -> dict[str, Any]:
        frame = request.model_dump_json().encode()
        kept = self._kept[peer, protocol]
        while kept:
            stream = kept.pop()
            if stream.outdated:
                await stream.aclose()
                continue
            try:
                return await self._one_call(stream, peer, protocol, frame)
            except StreamCut:
                log.debug("call.kept_stream_cut", peer=peer, protocol=protocol)
        return await self._one_call(
            await self._host.open_stream(peer, protocol), peer, protocol, frame
        )

    async def _one_call(
        self, stream: FramedStream, peer: PeerId, protocol: str, frame: bytes
    ) -> dict[str, Any]:
        reusable = False
        try:
            await stream.send(frame)
            answer = await stream.receive()
            if answer is None:
                raise StreamCut(f"{peer} ended the stream instead of answering")
            reusable = True
            return _opened(answer)
        finally:
            kept = self._kept[peer, protocol]
            if reusable and len(kept) < MAX_KEPT_STREAMS:
                kept.append(stream)
            else:
                with trio.CancelScope(shield=True):
                    await stream.aclose()


Answer = BaseModel | AsyncGenerator[BaseModel, None]


def serve_calls(
    host: CallHost,
    protocol: str,
    request: type[M] | TypeAdapter[M],
    handler: Callable[[PeerId, M], Awaitable[Answer]],
) -> None:
    """Answer calls of `protocol` with what `handler` returns or raises.

    A handler returns a model, or an async generator whose items are sent as they come and end with
    the iteration. It refuses by raising `CallRefused`; every other `MyxoError` is sent as code
    `failed`. A request that cannot be read is answered with code `malformed`. A handler whose
    caller has given up is cancelled.
    """
    adapter = request if isinstance(request, TypeAdapter) else TypeAdapter(request)

    async def serve(peer: PeerId, stream: FramedStream) -> None:
        frame = await stream.receive()
        while frame is not None:
            frame = await _attended(stream, partial(_answer, peer, stream, frame))

    async def _answer(peer: PeerId, stream: FramedStream, frame: bytes) -> None:
        try:
            answer = await handler(peer, adapter.validate_json(frame))
            if isinstance(answer, BaseModel):
                await stream.send(_ok(answer))
                return
            async with aclosing(answer) as items:
                async for item in items:
                    await stream.send(_ok(item))
            await stream.finish()
        except CallRefused as exc:
            await stream.send(_error(exc.code, exc.text, exc.details))
        except ValidationError as exc:
            await stream.send(_error("malformed", _first_error(exc)))
        except (StreamCut, PeerUnreachable):
            raise
        except MyxoError as exc:
            await stream.send(_error("failed", str(exc)))

    host.handle(protocol, serve)


async def _attended(stream: FramedStream, answer: Callable[[], Awaitable[None]]) -> bytes | None:
    """Answer while the peer is there; return its next request, or None once it has gone.

    Raises:
        StreamCut, PeerUnreachable: the stream is lost.
    """
    following: list[bytes | None] = []
    lost: MyxoError | None = None

    async def listen() -> None:
        try:
            following.append(await stream.receive())
        except (StreamCut, MalformedMessage):
            following.append(None)
        if following == [None]:
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(listen)
        try:
            await answer()
        except (StreamCut, PeerUnreachable) as exc:  # raised outside, where nothing wraps it
            lost = exc
        nursery.cancel_scope.cancel()
    if lost is not None:
        raise lost
    return following[0] if following else await stream.receive()


async def _replies(stream: FramedStream, reply: type[M]) -> AsyncGenerator[M, None]:
    while (frame := await stream.receive()) is not None:
        yield _read(reply, _opened(frame))


def _read(reply: type[M], values: dict[str, Any]) -> M:
    try:
        return reply.model_validate(values)
    except ValidationError as exc:
        raise MalformedMessage(f"the answer cannot be read: {_first_error(exc)}") from exc


def _opened(frame: bytes) -> dict[str, Any]:
    try:
        reply = _Reply.model_validate_json(frame)
    except ValidationError as exc:
        raise MalformedMessage(f"the answer cannot be read: {_first_error(exc)}") from exc
    if reply.error is not None:
        raise CallRefused(reply.error.code, reply.error.text, reply.error.details)
    return reply.ok or {}


def _ok(answer: BaseModel) -> bytes:
    return b'{"ok":' + answer.model_dump_json().encode() + b"}"


def _error(code: str, text: str, details: dict[str, Any] | None = None) -> bytes:
    refusal = _Refusal(code=code, text=text, details=details or {})
    return _Reply(error=refusal).model_dump_json(exclude={"ok"}).encode()


def _first_error(exc: ValidationError) -> str:
    first = exc.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}: {first['msg']}" if where else first["msg"]
