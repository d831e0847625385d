"""etcd's v3 API through its JSON gateway, natively on trio.

The gateway is etcd's own: each call is a POST of the gRPC message as JSON, with bytes as base64
and 64-bit numbers as text; a stream answers with one JSON object a line. Each call has a connection
of its own: definitions change rarely, and a kept connection is one that etcd may have left. (The
Python gRPC clients need threads, asyncio, or stubs that cannot be imported beside libp2p.)

Calls go to one endpoint until it fails, then to the next; each attempt is bounded, so a hung etcd
becomes an error after `timeout_s` an endpoint. A call that got no answer may have been done all
the same: callers send only what they can safely send again.
"""

import base64
import json
import ssl
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import structlog
import trio

from overlay.errors import PeerUnreachable
from registry.errors import StoreMisused, StoreUnavailable
from registry.line_stream import LineStream, open_line_stream

REQUEST_TIMEOUT_S = 5.0
WATCH_SILENCE_S = 30.0
"""A watch that was silent for so long is made anew: the connection may be dead without a sign."""

_UNAUTHENTICATED, _UNAVAILABLE = 16, 14
_TRY_ELSEWHERE = frozenset({4, 13, _UNAVAILABLE})
"""gRPC codes DEADLINE_EXCEEDED, INTERNAL and UNAVAILABLE say nothing about the request."""

_STALE_TOKEN = ("invalid auth token", "revision of auth store is old")
_MISUSED = ("user name is empty", "authentication failed", "permission denied")

log = structlog.get_logger()

Json = dict[str, Any]


class EtcdRefused(StoreUnavailable):
    """etcd answered with an error that no other endpoint would answer otherwise.

    Attributes:
        code: the gRPC status code.
    """

    def __init__(self, code: int, text: str) -> None:
        self.code = code
        super().__init__(f"etcd refused: {text}")


class StreamSilent(StoreUnavailable):
    """A stream had nothing to say for so long that it may be dead; open it again."""


class Compacted(StoreUnavailable):
    """The watch begins before what etcd still remembers.

    Attributes:
        revision: the first store revision that can be watched from.
    """

    def __init__(self, revision: int) -> None:
        self.revision = revision
        super().__init__(f"etcd has compacted its history up to revision {revision}")


@dataclass(frozen=True, slots=True)
class EtcdAccess:
    """How to reach an etcd cluster.

    Attributes:
        endpoints: `http://HOST:PORT` or `https://…`; the first that answers is used.
        ca: file with the authority that signed the servers' certificates; None: the system's.
        cert: file with the client's certificate chain, where the servers ask for one.
        key: file with its private key.
        user: for etcd's own authentication; empty if it is off.
        password: the user's.
        timeout_s: bound of one attempt at one endpoint.
    """

    endpoints: tuple[str, ...]
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    user: str = ""
    password: str = ""
    timeout_s: float = REQUEST_TIMEOUT_S

    def __repr__(self) -> str:
        """Show where, never with which password."""
        return f"EtcdAccess({', '.join(self.endpoints)})"


@dataclass(frozen=True, slots=True)
class KeyValue:
    """A key with its value and the store revision of its last change."""

    key: str
    value: bytes
    mod_revision: int


@dataclass(frozen=True, slots=True)
class Range:
    """What a read found, as of a store revision."""

    revision: int
    items: tuple[KeyValue, ...]
    more: bool


class EtcdGateway:
    """One cluster's API; nothing is sent before the first call.

    Raises:
        StoreMisused: an endpoint or a certificate file cannot be used.
    """

    def __init__(self, access: EtcdAccess) -> None:
        for endpoint in access.endpoints:
            if not endpoint.startswith(("http://", "https://")):
                raise StoreMisused(
                    f"{endpoint!r} is no etcd endpoint: write http://HOST:2379 or https://HOST:2379"
                )
        self._access = access
        self._tls = _tls(access)
        self._endpoints = [e.rstrip("/") for e in access.endpoints]
        self._token: str | None = None
        self._authenticating = trio.Lock()

    async def read(
        self,
        first: str,
        end: str | None = None,
        *,
        limit: int = 0,
        at: int = 0,
        created_after: int | None = None,
    ) -> Range:
        """Return the keys from `first` up to before `end`, or `first` alone, linearizably.

        Args:
            first: the first key.
            end: the key after the last one; None for `first` alone.
            limit: at most so many keys; 0 is all.
            at: read as of this store revision; 0 is now.
            created_after: only keys created after this store revision, the oldest first.
        """
        body: Json = {"key": _b64(first), "limit": str(limit), "revision": str(at)}
        if end is not None:
            body["range_end"] = _b64(end)
        if created_after is not None:
            body |= {"min_create_revision": str(created_after + 1), "sort_target": "CREATE"}
            body["sort_order"] = "ASCEND"
        return _range(await self.call("kv/range", body))

    async def swap(
        self, unchanged: Mapping[str, int], puts: Mapping[str, bytes], deletes: Sequence[str] = ()
    ) -> int | None:
        """Write `puts` and remove `deletes` if every key of `unchanged` has that mod revision.

        Returns the store revision of the change, or None if a key had changed. A mod revision of
        0 means that the key must not exist.
        """
        body = {
            "compare": [
                {"key": _b64(k), "target": "MOD", "result": "EQUAL", "mod_revision": str(r)}
                for k, r in unchanged.items()
            ],
            "success": [
                *({"request_put": {"key": _b64(k), "value": _b64(v)}} for k, v in puts.items()),
                *({"request_delete_range": {"key": _b64(k)}} for k in deletes),
            ],
        }
        reply = await self.call("kv/txn", body)
        return int(reply["header"]["revision"]) if reply.get("succeeded") else None

    async def watch(self, first: str, end: str, after: int) -> AsyncGenerator[KeyValue | int, None]:
        """Yield puts in a key range after a store revision, for as long as the endpoint lives.

        Between them it yields store revisions up to which nothing else will come.

        Raises:
            Compacted: the beginning is no longer remembered.
            StoreUnavailable: the stream ended or stayed silent; watch again from the last revision.
        """
        request = {
            "key": _b64(first),
            "range_end": _b64(end),
            "start_revision": str(after + 1),
            "progress_notify": True,
            "filters": ["NODELETE"],
        }
        async with aclosing(self.stream("watch", {"create_request": request})) as replies:
            async for reply in replies:
                if reply.get("canceled"):
                    if compacted := int(reply.get("compact_revision", 0)):
                        raise Compacted(compacted)
                    raise EtcdRefused(0, reply.get("cancel_reason", "the watch was cancelled"))
                for event in reply.get("events", ()):
                    yield _key_value(event["kv"])
                # A reply with events may be one of several while the watch catches up, so only a
                # progress notice says that everything up to its revision was sent.
                if not (reply.get("created") or reply.get("events")):
                    yield int(reply["header"]["revision"])

    async def grant(self, ttl_s: int) -> int:
        """Return a new lease that ends `ttl_s` seconds after it was last kept alive."""
        return int((await self.call("lease/grant", {"TTL": str(ttl_s)}))["ID"])

    async def put(self, key: str, value: bytes, *, lease: int = 0) -> None:
        """Write a key; with a lease, it is removed when the lease ends."""
        await self.call("kv/put", {"key": _b64(key), "value": _b64(value), "lease": str(lease)})

    async def keep_alive(self, lease: int) -> int:
        """Renew a lease and return the seconds that it has now; 0: it had ended."""
        async with aclosing(self.stream("lease/keepalive", {"ID": str(lease)})) as replies:
            async for reply in replies:
                return int(reply.get("TTL", 0))
        return 0

    async def revoke(self, lease: int) -> None:
        """End a lease, and with it its keys."""
        await self.call("lease/revoke", {"ID": str(lease)})

    async def call(self, path: str, body: Json) -> Json:
        """Return the reply of one call.

        Raises:
            EtcdRefused: the cluster says no.
            StoreUnavailable: no endpoint answered in time, naming each with what was wrong.
            StoreMisused: the credentials are wrong.
        """
        troubles = []
        for endpoint in list(self._endpoints):
            try:
                return await self._authenticated(endpoint, path, body)
            except EtcdRefused as exc:
                if exc.code not in _TRY_ELSEWHERE:
                    raise
                troubles.append(f"{endpoint}: {exc}")
            except StoreUnavailable as exc:
                troubles.append(f"{endpoint}: {exc}")
            self._demote(endpoint)
        raise StoreUnavailable("etcd does not answer: " + "; ".join(troubles))

    async def stream(self, path: str, body: Json) -> AsyncGenerator[Json, None]:
        """Yield the replies of a streaming call at the endpoint in use.

        Raises:
            StreamSilent: nothing came for `WATCH_SILENCE_S`.
            StoreUnavailable: the stream could not be made, or ended.
        """
        endpoint = self._endpoints[0]
        try:
            # The members refuse a stream while they have no leader, instead of being silent on it.
            headers = await self._headers(endpoint) | {"Grpc-Metadata-hasleader": "true"}
            async with self._open(endpoint, path, body, headers) as lines:
                while (line := await _next_line(lines, endpoint)) is not None:
                    yield _result(line)
        except PeerUnreachable as exc:
            self._demote(endpoint)
            raise StoreUnavailable(f"{endpoint}: {exc}") from exc
        except EtcdRefused as exc:
            self._token = None
            if exc.code in _TRY_ELSEWHERE:
                self._demote(endpoint)
            raise

    async def _authenticated(self, endpoint: str, path: str, body: Json) -> Json:
        token = self._token
        try:
            return await self._post(endpoint, path, body, await self._headers(endpoint))
        except EtcdRefused as exc:
            stale = any(sign in str(exc) for sign in _STALE_TOKEN)
            if not (stale and self._access.user):
                raise _misused(exc) or exc from None
        if self._token == token:
            self._token = None
        return await self._post(endpoint, path, body, await self._headers(endpoint))

    async def _headers(self, endpoint: str) -> dict[str, str]:
        if not self._access.user:
            return {}
        async with self._authenticating:
            if self._token is None:
                credentials = {"name": self._access.user, "password": self._access.password}
                try:
                    reply = await self._post(endpoint, "auth/authenticate", credentials, {})
                except EtcdRefused as exc:
                    raise _misused(exc) or exc from None
                self._token = reply["token"]
            return {"Authorization": self._token}

    async def _post(self, endpoint: str, path: str, body: Json, headers: dict[str, str]) -> Json:
        try:
            with trio.fail_after(self._access.timeout_s):
                async with self._open(endpoint, path, body, headers) as answer:
                    content = await answer.receive_all()
        except trio.TooSlowError as exc:
            raise StoreUnavailable(f"no answer within {self._access.timeout_s:g} s") from exc
        except PeerUnreachable as exc:
            raise StoreUnavailable(str(exc)) from exc
        if answer.status != HTTPStatus.OK:
            raise _refusal(content)
        return _json(content)

    def _open(
        self, endpoint: str, path: str, body: Json, headers: dict[str, str]
    ) -> AbstractAsyncContextManager[LineStream]:
        return open_line_stream(
            f"{endpoint}/v3/{path}",
            body,
            headers,
            tls=self._tls if endpoint.startswith("https://") else None,
            timeout_s=self._access.timeout_s,
        )

    def _demote(self, endpoint: str) -> None:
        """Ask the other endpoints first from now on."""
        if len(self._endpoints) > 1 and self._endpoints[0] == endpoint:
            self._endpoints = [*self._endpoints[1:], endpoint]
            log.warning("etcd.failover", left=endpoint, now=self._endpoints[0])


def prefix_end(prefix: str) -> str:
    """Return the key after every key that begins with `prefix`, which ends in an ASCII sign."""
    return prefix[:-1] + chr(ord(prefix[-1]) + 1)


def _tls(access: EtcdAccess) -> ssl.SSLContext | None:
    if not any(e.startswith("https://") for e in access.endpoints):
        return None
    try:
        context = ssl.create_default_context(cafile=access.ca)
        if access.cert is not None:
            context.load_cert_chain(access.cert, access.key)
    except (OSError, ssl.SSLError) as exc:
        raise StoreMisused(
            f"the etcd certificate files {access.ca}, {access.cert}, {access.key} "
            f"cannot be used: {exc}"
        ) from exc
    return context


def _range(reply: Json) -> Range:
    items = tuple(_key_value(kv) for kv in reply.get("kvs", ()))
    return Range(int(reply["header"]["revision"]), items, bool(reply.get("more")))


def _key_value(kv: Json) -> KeyValue:
    key = base64.b64decode(kv["key"]).decode(errors="replace")
    return KeyValue(key, base64.b64decode(kv.get("value", "")), int(kv["mod_revision"]))


def _b64(value: str | bytes) -> str:
    return base64.b64encode(value.encode() if isinstance(value, str) else value).decode()


def _json(content: bytes) -> Json:
    try:
        value = json.loads(content)
    except ValueError as exc:
        raise StoreUnavailable("the answer is no JSON; is this an etcd client port?") from exc
    if not isinstance(value, dict):
        raise StoreUnavailable("the answer is not etcd's; is this an etcd client port?")
    return value


async def _next_line(lines: LineStream, endpoint: str) -> bytes | None:
    with trio.move_on_after(WATCH_SILENCE_S):
        return await lines.receive_line()
    raise StreamSilent(f"{endpoint}: silent for {WATCH_SILENCE_S:g} s")


def _result(line: bytes) -> Json:
    reply = _json(line)
    if "error" in reply:
        raise _refusal(line)
    result = reply.get("result")
    return result if isinstance(result, dict) else {}


def _refusal(content: bytes) -> EtcdRefused:
    try:
        reply = json.loads(content)
        error: Json = reply["error"] if isinstance(reply["error"], dict) else reply
        code = int(error.get("grpc_code") or error.get("code") or 0)
        return EtcdRefused(code, str(error.get("message", error)))
    except (ValueError, KeyError, TypeError):
        return EtcdRefused(_UNAVAILABLE, content[:200].decode(errors="replace"))


def _misused(exc: EtcdRefused) -> StoreMisused | None:
    if any(sign in str(exc) for sign in _MISUSED):
        return StoreMisused(f"{exc}; give --etcd-user and its password, with rights on /myxo/")
    return None
