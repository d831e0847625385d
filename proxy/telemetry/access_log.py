"""The access log: one JSON object a line for each request that has ended.

Requests never wait for it. Their entries queue in memory, and are rendered and written by a thread
some times a second. What does not fit the queue, because the disk is slower than the traffic, is
dropped and counted. The file is opened anew when it was moved away, as log rotation does it.
"""

import json
import os
import select
import sys
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

import structlog
import trio
from prometheus_client import CollectorRegistry, Counter

from overlay.http.head import RequestHead, get
from proxy.telemetry.decisions import Decision, Failure
from proxy.telemetry.traces import trace_id_of

STDOUT = "-"

FLUSH_S = 0.25
"""How long a line may wait: long enough to write many at once, short enough to follow by eye."""

MAX_QUEUED = 20_000
"""Entries in memory; some seconds at the most that a proxy serves, for a disk that stands still."""

MAX_TEXT = 2048
"""Characters of what a client chose: target and user agent."""

log = structlog.get_logger()


@dataclass(slots=True)
class Entry:
    """One request that has ended.

    Attributes:
        decision: None where it was for no service.
        client: the service of the instance that asked, or the address.
        at: when it ended, in Unix seconds.
    """

    head: RequestHead
    decision: Decision | None
    request_id: str
    client: str
    duration_s: float
    status: int
    received_bytes: int
    sent_bytes: int
    cut: bool
    at: float


class AccessLog:
    """Writes entries to a file, or to standard output.

    Args:
        path: the file; `-` is standard output.
        registry: where it is counted what was lost.
    """

    def __init__(self, path: str, registry: CollectorRegistry) -> None:
        self._path = None if path == STDOUT else Path(path)
        self._queue: deque[Entry] = deque()
        self._file: TextIO | None = None
        self._failing = False
        self._dropped = Counter(
            "myxo_proxy_access_log_dropped_total",
            "Lines of the access log that could not be written.",
            registry=registry,
        )

    def write(self, entry: Entry) -> None:
        """Queue one entry."""
        if len(self._queue) >= MAX_QUEUED:
            self._dropped.inc()
        else:
            self._queue.append(entry)

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            await trio.sleep(FLUSH_S)
            if self._queue:
                await trio.to_thread.run_sync(self._flush)

    def close(self) -> None:
        """Write what is left."""
        self._flush()
        if self._file is not None and self._path is not None:
            self._file.close()

    def _flush(self) -> None:
        entries = [self._queue.popleft() for _ in range(len(self._queue))]
        try:
            file = self._open()
            for lines in _at_once(render(entry) for entry in entries):
                file.write(lines)
                file.flush()
        except OSError as exc:
            self._dropped.inc(len(entries))
            if not self._failing:
                log.warning("access_log.unwritable", path=str(self._path), reason=str(exc))
            self._failing, self._file = True, None
        else:
            self._failing = False

    def _open(self) -> TextIO:
        """Return the file, the new one if the old one was moved away."""
        if self._path is None:
            return sys.stdout
        if self._file is not None and not _is_at(self._file, self._path):
            self._file.close()
            self._file = None
        if self._file is None:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
            self._file = os.fdopen(descriptor, "a", encoding="utf-8")
        return self._file


@asynccontextmanager
async def open_access_log(
    path: str, registry: CollectorRegistry
) -> AsyncIterator[AccessLog | None]:
    """Yield the log at `path`, None if that is empty; at the end what is queued is written."""
    if not path:
        yield None
        return
    access_log = AccessLog(path, registry)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(access_log.run)
            yield access_log
            nursery.cancel_scope.cancel()
    finally:
        access_log.close()


def render(entry: Entry) -> str:
    """Return the line; what does not apply to the request is not in it."""
    line: dict[str, Any] = {
        "time": datetime.fromtimestamp(entry.at, UTC).isoformat(timespec="milliseconds"),
        "id": entry.request_id,
        "client": entry.client,
        "method": entry.head.method.decode("latin-1"),
        "target": entry.head.target.decode("latin-1")[:MAX_TEXT],
        "status": entry.status,
        "duration_ms": round(entry.duration_s * 1000, 3),
        "received_bytes": entry.received_bytes,
        "sent_bytes": entry.sent_bytes,
        "user_agent": (get(entry.head.headers, b"user-agent") or b"").decode("latin-1")[:MAX_TEXT],
        "trace_id": _trace_id(entry),
        "cut": entry.cut,
        **({} if entry.decision is None else _decided(entry.decision)),
    }
    return json.dumps({k: v for k, v in line.items() if _applies(v)}) + "\n"


def _at_once(lines: Iterable[str]) -> Iterator[str]:
    """Yield whole lines, as many as are written without another process's in their midst."""
    together: list[str] = []
    size = 0
    for line in lines:
        if size + len(line) > select.PIPE_BUF and together:
            yield "".join(together)
            together, size = [], 0
        together.append(line)
        size += len(line)  # JSON is ASCII here
    if together:
        yield "".join(together)


def _applies(value: object) -> bool:
    return value is not False and value not in ("", [], {})


def _decided(decision: Decision) -> dict[str, Any]:
    chosen = decision.chosen
    failures = [e.reason for e in decision.events if isinstance(e, Failure)]
    return {
        "service": decision.service,
        "revision": decision.revision.revision.number,
        "instance": "" if chosen is None else chosen.record.id,
        "owner": "" if chosen is None else chosen.owner,
        "road": decision.road,
        "started": decision.started,
        "failures": failures,
        "refusal": decision.refusal,
        "phases_ms": _milliseconds(decision.timing.phases()),
    }


def _milliseconds(phases: Sequence[tuple[str, float]]) -> dict[str, float]:
    return {phase: round(seconds * 1000, 3) for phase, seconds in phases}


def _trace_id(entry: Entry) -> str:
    trace = None if entry.decision is None else entry.decision.trace
    return trace_id_of(entry.head.headers) if trace is None else trace.trace_id


def _is_at(file: TextIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
