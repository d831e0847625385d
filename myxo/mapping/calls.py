"""`map` as programs call it: awaited or iterated, under trio or asyncio, or from plain code."""

import asyncio
import os
import pickle
import sys
import threading
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, TypeGuard, TypeVar

import sniffio
import trio

from myxo.mapping.engine import Engine, Work
from myxo.mapping.errors import ItemFailed, RemoteTraceback, WorkerLost
from myxo.mapping.faults import Fault
from myxo.mapping.functions import PickledFunction, pickled, send_own_modules_by_value
from myxo.mapping.here import Here
from myxo.mapping.inside import is_in_worker
from myxo.mapping.items import Items, SequenceItems, WindowItems
from myxo.mapping.mailbox import Mail, Mailbox
from myxo.mapping.outcomes import Outcomes
from myxo.mapping.reading import Snapshots, read
from myxo.mapping.requests import Requests
from myxo.mapping.run import MapRun
from myxo.mapping.schedule import Schedule
from myxo.mapping.settings import ChunkSize, MapSettings
from myxo.mapping.workers import Workers, workers_of
from myxo.services.asking import target_of
from myxo.services.codec import CodecLike, codec_of
from myxo.services.proxy_address import proxy_address

if TYPE_CHECKING:
    from myxo.mapping.progress import Bar

T = TypeVar("T")
R = TypeVar("R")

UNTAKEN = 100_000
"""Results that wait for a caller who iterates; then no more are computed until some are taken."""

NOT_FROM_GENERATORS = (StopIteration, StopAsyncIteration)
"""Python makes a RuntimeError of these where a generator raises them."""


@dataclass(frozen=True, slots=True)
class Computing:
    """Items are computed by workers.

    Attributes:
        function: by what.
        workers: where they are had.
    """

    function: PickledFunction
    workers: Workers

    def begin(
        self,
        items: Items,
        deliver: Callable[[Outcomes], None],
        settings: MapSettings,
        read_more: Callable[[int], None] | None,
    ) -> tuple[Schedule, MapRun]:
        """Return where indices are offered, and the map that takes them from there."""
        chunk = settings.chunk_of(items.count or 0)
        schedule = Schedule(chunk=chunk, most_lanes=settings.max_in_flight)
        run = MapRun(
            self.function, items, schedule, self.workers, deliver, settings, read_more=read_more
        )
        return schedule, run


class MapCall(Generic[T, R]):
    """A map that begins when it is awaited or iterated, once.

    Await it for all results as a list, or iterate over it with `async for`: results come as they
    are there, in the order of the items unless it was asked for as completed.
    """

    def __init__(
        self, work: Work, items: Iterable[T] | AsyncIterable[T], settings: MapSettings
    ) -> None:
        self._work = work
        self._items = items
        self._settings = settings

    def __await__(self) -> Generator[Any, Any, list[Any]]:
        return self._all().__await__()

    def __aiter__(self) -> AsyncIterator[Any]:
        return self._iterate()

    async def _all(self) -> list[Any]:
        found: list[Any] = []
        async for part in self._parts(self._settings):
            found += part
        return found

    async def _iterate(self) -> AsyncIterator[Any]:
        async with aclosing(self._parts(replace(self._settings, untaken=UNTAKEN))) as parts:
            async for part in parts:
                for result in part:
                    yield result

    async def _parts(self, settings: MapSettings) -> AsyncGenerator[Sequence[Any], None]:
        """Yield results as they come, some at a time: for each one alone it would take 1 µs."""
        news = _async_news()
        passage = _Passage(self._work, self._items, settings, news.set)
        try:
            while True:
                news.clear()
                mail = passage.take()
                for part in passage.results(mail):
                    yield part
                if mail.ended:
                    return
                if mail.wanted:
                    await passage.read_async(mail.wanted)
                else:
                    await news.wait()
        finally:
            passage.end()

    def wait(self) -> list[Any]:
        """Return the results; blocks."""
        parts = self._wait()
        found = next(parts, [])  # not copied, as a million results are one part mostly
        for part in parts:
            found += part
        return found

    def _wait(self) -> Iterator[list[Any]]:
        event = threading.Event()
        passage = _Passage(self._work, self._items, self._settings, event.set)
        try:
            while True:
                event.clear()
                mail = passage.take()
                yield from passage.results(mail)
                if mail.ended:
                    return
                if mail.wanted:
                    passage.read(mail.wanted)
                else:
                    event.wait()
        finally:
            passage.end()


class _Passage:
    """One call's way to its engine and back."""

    def __init__(
        self,
        work: Work,
        items: Iterable[Any] | AsyncIterable[Any],
        settings: MapSettings,
        notify: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._input: Iterator[Any] = iter(())
        self._snapshots = Snapshots()
        self._async_input: AsyncIterator[Any] | None = None
        source: Items = WindowItems()
        if _is_whole(items):
            source = SequenceItems(items)
        elif isinstance(items, AsyncIterable):
            self._async_input = aiter(items)
        else:
            self._input = iter(items)
        self._bar = _bar(settings, source.count)
        # Who waits for all is not woken by each: its thread would wait for workers' processors.
        each = self._bar is not None or settings.untaken is not None
        self._mailbox = Mailbox(notify, each=each, ordered=not settings.as_completed)
        self._engine = Engine(work, source, self._mailbox, settings)
        self._engine.start()

    def take(self) -> Mail:
        """Return what has come."""
        return self._mailbox.take()

    def results(self, mail: Mail) -> Iterator[list[Any]]:
        """Yield what can be given to the caller now, some results at a time; each list is theirs.

        Raises:
            Exception: an item's, or that with which the map ended.
        """
        if self._bar is not None:
            self._bar.advance(mail.came)
        for outcomes in mail.outcomes:
            yield from self._given(outcomes)
        if mail.ended and mail.error is not None:
            raise alone(mail.error)

    def _given(self, outcomes: Outcomes) -> Iterator[list[Any]]:
        """Yield outcomes as the caller wants them; up to the first fault, which is raised then."""
        indices, values, fault = outcomes.indices, outcomes.values, None
        if outcomes.faults:
            values, fault = self._with_faults(outcomes)
        yield list(zip(indices, values, strict=False)) if self._settings.as_completed else values
        if fault is not None:
            raise fault
        self._engine.took(len(indices))

    def _with_faults(self, outcomes: Outcomes) -> tuple[list[Any], BaseException | None]:
        """Return the results, and what is to be raised behind them."""
        values, first = list(outcomes.values), outcomes.indices.start
        for index, fault in sorted(outcomes.faults.items()):
            error = exception_of(fault, index, outcomes.worker)
            if not self._settings.return_exceptions:
                return values[: index - first], error
            values[index - first] = error
        return values, None

    def read(self, wanted: int) -> None:
        """Read more of the input and hand it over."""
        items, ended = read(self._input, wanted, self._snapshots)
        self._engine.give(items, ended=ended)

    async def read_async(self, wanted: int) -> None:
        """Read more of the input, of an asynchronous one a single item."""
        if self._async_input is None:
            self.read(wanted)
            return
        try:
            item = await anext(self._async_input)
        except StopAsyncIteration:
            self._engine.give([], ended=True)
        else:
            self._engine.give([self._snapshots.of(item)], ended=False)

    def end(self) -> None:
        """Have the workers stop what the caller no longer waits for."""
        self._engine.cancel()
        self._engine.join()
        if self._bar is not None:
            self._bar.end()


def alone(error: BaseException) -> BaseException:
    """Return the one error that nurseries have put into groups; of several alike, the first."""
    while (
        isinstance(error, BaseExceptionGroup) and len({type(one) for one in error.exceptions}) == 1
    ):
        error = error.exceptions[0]
    return error


def exception_of(fault: Fault | Exception, index: int, worker: str) -> BaseException:
    """Return what to raise for a fault: the exception itself, or one that tells of it."""
    if isinstance(fault, Exception):
        return fault
    error: BaseException | None = None
    if fault.kind == "WorkerLost":
        error = WorkerLost(f"item {index}: {fault.message}")
    elif fault.pickled is not None:
        try:
            error = pickle.loads(fault.pickled)  # noqa: S301  (of a worker that this program chose)
        except Exception:  # noqa: BLE001  (whatever a class does when it is made)
            error = None
    if error is None or isinstance(error, NOT_FROM_GENERATORS):
        error = ItemFailed(index, fault.kind, fault.message, fault.trace, worker)
    error.add_note(f"item {index} of the map, computed by worker {worker}")
    if fault.trace:
        error.__cause__ = RemoteTraceback(fault.trace)
    return error


def _bar(settings: MapSettings, total: int | None) -> "Bar | None":
    """Return the bar of a map that begins, if it has one."""
    if not (sys.stderr.isatty() if settings.progress is None else settings.progress):
        return None
    from myxo.mapping.progress import begun_bar  # noqa: PLC0415  (takes 60 ms)

    return begun_bar(settings.label, total)


def _is_whole(items: object) -> TypeGuard[Sequence[Any]]:
    """Whether all items are there by index and slice, as in sequences, arrays and series."""
    read_by_index = all(hasattr(items, f"__{name}__") for name in ("array", "getitem", "len"))
    return isinstance(items, Sequence) or read_by_index


# What wakes a caller, in the map's thread, which outlives a caller whose loop has ended


class _TrioNews:
    def __init__(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._event = trio.Event()

    def set(self) -> None:
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._event.set)

    def clear(self) -> None:
        self._event = trio.Event()

    async def wait(self) -> None:
        await self._event.wait()


class _AsyncioNews:
    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()

    def set(self) -> None:
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._event.set)

    def clear(self) -> None:
        self._event.clear()

    async def wait(self) -> None:
        await self._event.wait()


def _async_news() -> _TrioNews | _AsyncioNews:
    return _TrioNews() if sniffio.current_async_library() == "trio" else _AsyncioNews()


# What programs call


def map(  # noqa: A001  (what it is)
    function: Callable[[T], R] | str,
    items: Iterable[T] | AsyncIterable[T],
    *,
    chunk: ChunkSize = "auto",
    timeout: float | None = None,
    retries: int = 0,
    max_in_flight: int = 256,
    return_exceptions: bool = False,
    as_completed: bool = False,
    codec: CodecLike = "json",
    proxy: str | None = None,
    image: str | None = None,
    service: str | None = None,
    resources: Mapping[str, int] | None = None,
    progress: bool | None = None,
) -> MapCall[T, R]:
    """Compute `[function(item) for item in items]` on the machines of the network.

    Or have a service answer for each item: each is one POST, and its result is what the answer
    says.

    Under trio and asyncio, `await` it for the list, or iterate over it with `async for`. Within a
    mapped function it is computed where that runs.

    Args:
        function: any function of one argument; what it uses travels with it, what is installed is
            imported where it runs. Or a service, as `"service"` or `"service/path"`.
        items: any iterable or asynchronous iterable; of one that is no sequence only as much is
            read ahead as keeps the workers busy.
        chunk: items of a message to a worker: a number, `auto` by measured time, or `sqrt` of how
            many items there are. A request has one.
        timeout: seconds that one item may take; it fails with `TimeoutError` then.
        retries: how often an item whose function raised is computed again, or asked for again.
        max_in_flight: workers that are used, or requests that are under way, at once at the most.
        return_exceptions: have an item's exception be its result.
        as_completed: have results come as they are there, as pairs of index and result.
        codec: of items and results of a service: `json`, `bytes`, or two functions, from an item
            to bytes and back; a third value is the type of the first one's.
        proxy: the address of the proxy that is asked; else that of `MYXO_PROXY`, else
            this machine's.
        image: have workers be containers of this image, which has Python, Myxo and what the
            function imports; else that of `MYXO_MAP_IMAGE`. Without one they are processes.
        service: have workers be instances of this service, which is registered already and runs
            `python -m myxo.mapping.worker`.
        resources: what a worker needs, as in a definition: `cpu_millicores`, of which it has 1000
            unless it is said, and `memory_mib`.
        progress: show a bar on standard error; None does where that is a terminal.

    Raises:
        Unpicklable: the function cannot travel; the message names what in it.
        InvalidName: what is before the slash, or `service`, is no service's name.
        ValueError: a setting is none.
        SettingsInvalid: the proxy's address is none.
    """
    settings = MapSettings(
        chunk=chunk,
        timeout_s=timeout,
        retries=retries,
        max_in_flight=max_in_flight,
        return_exceptions=return_exceptions,
        as_completed=as_completed,
        progress=progress,
        label=function if isinstance(function, str) else getattr(function, "__name__", "map"),
    )
    address = proxy_address(proxy)
    if isinstance(function, str):
        return MapCall(Requests(target_of(function), codec_of(codec), address), items, settings)
    if is_in_worker():
        return MapCall(Here(function), items, settings)
    send_own_modules_by_value()
    if image is None and service is None:
        image = os.environ.get("MYXO_MAP_IMAGE")
    workers = workers_of(address, image=image, service=service, resources=resources)
    return MapCall(Computing(pickled(function), workers), items, settings)


def map_sync(function: Callable[[T], R] | str, items: Iterable[T], **settings: Any) -> list[Any]:
    """Compute `[function(item) for item in items]` as `map` does, and wait for it.

    Args:
        function: as of `map`.
        items: as of `map`.
        settings: as of `map`.
    """
    return map(function, items, **settings).wait()
