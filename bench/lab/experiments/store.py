"""The database of experiments for programs that must not block: trio's, and asyncio's too.

All blocking calls are here. Each is one transaction, done in a thread when its caller awaits it:

    async with open_store(url) as store:
        experiment = await store.read(queries.get, "202611291200-ab3d")
        await store.write(queries.end, experiment.exp_id, Change.FINISH, time.time())

A caller that is cancelled leaves the call to its end, so that a transaction is done or not begun.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Concatenate, ParamSpec, TypeVar

from anyio import CapacityLimiter, to_thread
from sqlalchemy import URL, Connection, Engine
from sqlalchemy.exc import DataError, IntegrityError, SQLAlchemyError

from bench.lab.errors import StoreFailed
from bench.lab.experiments import queries
from bench.lab.experiments.database import CONNECTIONS, open_engine, reason, shown, writing
from bench.lab.request_trace import RequestTrace

P = ParamSpec("P")
T = TypeVar("T")

Query = Callable[Concatenate[Connection, P], T]

_ROWS_TO_BLAME = (IntegrityError, DataError, UnicodeError)
"""What the database says to rows that it cannot keep, and not for another reason."""


class Store:
    """Does queries; made by `open_store`."""

    def __init__(self, engine: Engine, limiter: CapacityLimiter) -> None:
        self._reads = engine
        self._writes = writing(engine)
        self._limiter = limiter
        self.url = engine.url

    async def read(self, query: Query[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what `query` finds.

        Raises:
            StoreFailed: the database does not answer, or not like this.
            LabError: what the query raises.
        """
        return await self._do(self._reads, lambda connection: query(connection, *args, **kwargs))

    async def write(self, query: Query[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Have `query` change what is kept, wholly or not at all; raises as `read` does."""
        return await self._do(self._writes, lambda connection: query(connection, *args, **kwargs))

    async def _do(self, engine: Engine, work: Callable[[Connection], T]) -> T:
        def transaction() -> T:
            with engine.begin() as connection:
                return work(connection)

        try:
            return await to_thread.run_sync(transaction, limiter=self._limiter)
        except (SQLAlchemyError, UnicodeError) as exc:
            raise StoreFailed(f"the database {shown(self.url)} failed: {reason(exc)}") from exc


class SqlTraceSink:
    """A `TraceSink` into a store: what `write` has returned for is not lost when a process ends.

    Attributes:
        dropped: traces so far of experiments that are not there, because they were deleted.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.dropped = 0

    async def write(self, traces: Sequence[RequestTrace]) -> None:
        """Keep these, in one transaction.

        Raises:
            StoreFailed: none of them was kept.
        """
        try:
            await self._store.write(queries.add_traces, traces)
        except StoreFailed as exc:
            if not isinstance(exc.__cause__, _ROWS_TO_BLAME):
                raise
            self.dropped += await self._store.write(_add_what_can_be, traces)


def _add_what_can_be(connection: Connection, traces: Sequence[RequestTrace]) -> int:
    """Keep the traces of experiments that are there, and return how many others there are."""
    there = queries.known(connection, {trace.exp_id for trace in traces}) | {""}
    kept = [_as_text(trace) for trace in traces if trace.exp_id in there]
    queries.add_traces(connection, kept)
    return len(traces) - len(kept)


def _as_text(trace: RequestTrace) -> RequestTrace:
    """Return a trace with question marks for what is no text: a server says what it likes."""
    return RequestTrace._make(
        value.encode(errors="replace").decode().replace("\0", "?")
        if isinstance(value, str)
        else value
        for value in trace
    )


@asynccontextmanager
async def open_store(url: URL) -> AsyncIterator[Store]:
    """Open the database at `url`, its tables made if they are not there; see `database_url`.

    Raises:
        StoreFailed: it does not answer, or cannot be used for this.
    """
    limiter = CapacityLimiter(CONNECTIONS)
    engine = await to_thread.run_sync(open_engine, url, limiter=limiter)
    try:
        yield Store(engine, limiter)
    finally:
        engine.dispose()
