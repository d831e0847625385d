"""`myxo.Executor`: the standard library's interface of submitted calls, on the lanes of a map.

What is submitted is a map whose input goes on: each call is an item that holds its function and
arguments, and what computes it is the same for all. While calls come the map runs; when there has
been none for a while it ends, and frees its workers, until the next call begins another one.
"""

import atexit
import concurrent.futures
import os
import pickle
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from itertools import count
from typing import Any, ParamSpec, TypeVar

from myxo.mapping.calls import Computing, alone, exception_of
from myxo.mapping.engine import Engine
from myxo.mapping.errors import Unpicklable
from myxo.mapping.functions import pickled, send_own_modules_by_value
from myxo.mapping.here import Here
from myxo.mapping.inside import is_in_worker
from myxo.mapping.items import WindowItems
from myxo.mapping.mailbox import Mailbox
from myxo.mapping.outcomes import Outcomes
from myxo.mapping.packing import call, pack
from myxo.mapping.settings import MapSettings
from myxo.mapping.workers import Workers, process_workers
from myxo.services.proxy_address import proxy_address

P = ParamSpec("P")
T = TypeVar("T")

LINGER_S = 1.0
"""Without a call under way after which the workers are freed."""


class Executor(concurrent.futures.Executor):
    """Computes calls on the machines of the network.

    A future whose call has not been sent to a worker can be cancelled. A call's exception is its
    future's, with a note of the worker; one that ends each worker fails with `WorkerLost`.

    Args:
        max_workers: that are used at once, at the most.
        timeout: seconds that one call may take; it fails with `TimeoutError` then.
        proxy: as of `map`.
    """

    def __init__(
        self, max_workers: int = 256, *, timeout: float | None = None, proxy: str | None = None
    ) -> None:
        self._settings = MapSettings(timeout_s=timeout, max_in_flight=max_workers)
        self._workers = process_workers(proxy_address(proxy))
        self._lock = threading.Lock()
        self._course: _Course | None = None
        self._closed = False
        _living.add(self)

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Have a call computed; return its future.

        Raises:
            Unpicklable: the function or an argument cannot travel; the message names what.
            RuntimeError: the executor was shut down.
        """
        send_own_modules_by_value()
        item = _item(fn, args, kwargs)
        future: _Future[T] = _Future()
        with self._lock:
            if self._closed:
                raise RuntimeError("the executor was shut down, and takes no calls")
            if self._course is None or not self._course.take(future, item):
                self._course = _Course(self._workers, self._settings)
                self._course.begin(future, item)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls.

        Args:
            wait: return when all that were taken have ended.
            cancel_futures: cancel those that have not been sent to a worker.
        """
        with self._lock:
            self._closed = True
            course = self._course
        if course is None:
            return
        if cancel_futures:
            course.cancel()
        course.close()
        if wait:
            course.join()


_living: "weakref.WeakSet[Executor]" = weakref.WeakSet()


@atexit.register
def _finish() -> None:
    """Wait for the calls of a program that ends, as the standard library's executors do."""
    for executor in tuple(_living):
        executor.shutdown()


os.register_at_fork(after_in_child=_living.clear)


class _Future(Future[T]):
    """A future that can be asked several times whether it may begin: lost calls are sent again."""

    _may_begin: bool | None = None

    def may_begin(self) -> bool:
        """Note that the call is sent to a worker, or that it was cancelled before; return which."""
        if self._may_begin is None:
            self._may_begin = self.set_running_or_notify_cancel()
        return self._may_begin


class _Calls(WindowItems):
    """Calls on their way; one that was cancelled before is not computed."""

    def __init__(self, futures: "dict[int, _Future[Any]]") -> None:
        super().__init__()
        self._futures = futures

    def take(self, indices: range) -> list[Any]:
        """Return the calls of a chunk, None for one that was cancelled."""
        return [
            item if index in self._futures and self._futures[index].may_begin() else None
            for index, item in zip(indices, super().take(indices), strict=True)
        ]


class _Course:
    """One map: from a call that found none to a while without any."""

    def __init__(self, workers: Workers, settings: MapSettings) -> None:
        self._news = threading.Event()
        self._lock = threading.Lock()
        self._indices = count()
        self._futures: dict[int, _Future[Any]] = {}
        self._closed = False
        self._mailbox = Mailbox(self._news.set)
        work = Here(call) if is_in_worker() else Computing(pickled(call), workers)
        self._engine = Engine(work, _Calls(self._futures), self._mailbox, settings)
        self._thread = threading.Thread(target=self._settle, name="myxo.Executor", daemon=True)

    def begin(self, future: _Future[Any], item: list[Any]) -> None:
        """Start with a call; nothing is settled before it is there."""
        self._engine.start()
        self.take(future, item)
        self._thread.start()

    def take(self, future: _Future[Any], item: list[Any]) -> bool:
        """Take a call; return False if the map ends."""
        with self._lock:
            if self._closed:
                return False
            self._futures[next(self._indices)] = future
            self._engine.give([item], ended=False)
        return True

    def cancel(self) -> None:
        """Cancel what has not been sent to a worker."""
        for future in tuple(self._futures.values()):
            future.cancel()

    def close(self) -> None:
        """Let the map end when all calls have."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._engine.give([], ended=True)

    def join(self) -> None:
        """Wait for the end."""
        self._thread.join()

    def _settle(self) -> None:
        """Give futures their results, until the map ends."""
        while True:
            if not self._news.wait(LINGER_S):
                self._close_if_idle()
            self._news.clear()
            mail = self._mailbox.take()
            for outcomes in mail.outcomes:
                self._give(outcomes)
            if mail.ended:
                self._fail(mail.error)
                self._engine.join()
                return

    def _close_if_idle(self) -> None:
        with self._lock:
            if not self._futures and not self._closed:
                self._closed = True
                self._engine.give([], ended=True)

    def _give(self, outcomes: Outcomes) -> None:
        for index, value in zip(outcomes.indices, outcomes.values, strict=True):
            future = self._futures.pop(index)
            if future.cancelled():
                continue
            if (fault := outcomes.faults.get(index)) is not None:
                future.set_exception(exception_of(fault, index, outcomes.worker))
            else:
                future.set_result(value)
        self._engine.took(len(outcomes.indices))

    def _fail(self, error: BaseException | None) -> None:
        """Have what has no outcome fail with what the map failed with."""
        with self._lock:
            self._closed = True
        for future in tuple(self._futures.values()):
            if future.may_begin() and error is not None:
                future.set_exception(alone(error))
        self._futures.clear()


def _item(function: Callable[..., Any], args: Any, kwargs: Any) -> list[Any]:
    """Return a call as what travels in one item, large buffers uncopied.

    Raises:
        Unpicklable: it cannot travel; the message names what in it.
    """
    try:
        own, *large = pack((function, args, kwargs))
        return [own, *(pickle.PickleBuffer(part) for part in large)]
    except Exception as exc:
        pickled(function)  # if that is to blame, its message says what in it
        raise Unpicklable(f"the arguments of {function!r} cannot be sent: {exc}") from exc
