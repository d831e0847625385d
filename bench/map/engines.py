"""The ways to compute a map: each opened once, with so many workers, then used again and again."""

import asyncio
import logging
import multiprocessing
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, Protocol

import myxo
from bench.map.tasks import Sealed, each_of, each_sealed

OBJECT_STORE_BYTES = 3 << 30
"""Ray's: some GiB of arrays are to fit."""

Function = Callable[[Any], Any]


class Engine(Protocol):
    """One way to compute a map."""

    def map(self, function: Function, items: Sequence[Any], chunk: int | None) -> list[Any]:
        """Return the results in order, computed in chunks of a size, or of the engine's own."""

    def each(self, function: Function, items: Sequence[Any]) -> list[Any]:
        """Return the results in order, each item submitted by itself."""


def _chunks(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    return [items[at : at + size] for at in range(0, len(items), size)]


def _flat(parts: Sequence[Sequence[Any]]) -> list[Any]:
    return list(chain.from_iterable(parts))


class Loop:
    """A plain loop."""

    def map(self, function: Function, items: Sequence[Any], chunk: int | None) -> list[Any]:
        """Return the results."""
        del chunk
        return each_of(function, items)

    def each(self, function: Function, items: Sequence[Any]) -> list[Any]:
        """Return the results."""
        return self.map(function, items, None)


@dataclass(frozen=True)
class Myxo:
    """Myxo's map; the environment says where its proxy is."""

    workers: int

    def map(self, function: Function, items: Sequence[Any], chunk: int | None) -> list[Any]:
        """Return the results; chunks go by measured time if no size is given."""
        size: Any = "auto" if chunk is None else chunk
        return myxo.map_sync(function, items, chunk=size, max_in_flight=self.workers)

    def each(self, function: Function, items: Sequence[Any]) -> list[Any]:
        """Return the results of one message an item."""
        return self.map(function, items, 1)

    def flow(self, function: Function, items: Iterator[Any], seen: Callable[[], None]) -> int:
        """Take results as they are completed, call `seen` for each; return how many came."""

        async def take() -> int:
            count = 0
            pairs = myxo.map(function, items, as_completed=True, max_in_flight=self.workers)
            async for _ in pairs:
                count += 1
                seen()
            return count

        return asyncio.run(take())


class Pool:
    """multiprocessing.Pool."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool

    def map(self, function: Function, items: Sequence[Any], chunk: int | None) -> list[Any]:
        """Return the results."""
        results: list[Any] = self._pool.map(function, items, chunksize=chunk)
        return results

    def each(self, function: Function, items: Sequence[Any]) -> list[Any]:
        """Return the results of one message an item."""
        return self.map(function, items, 1)


class Joblib:
    """joblib with loky; a chunk is one task, which costs less than its own batches do."""

    def __init__(self, parallel: Any) -> None:
        self._parallel = parallel

    def map(self, function: Function, items: Sequence[Any], chunk: int | None) -> list[Any]:
        """Return the results."""
        from joblib import delayed  # noqa: PLC0415  (its own process imports it)

        if chunk is None:
            return list(self._parallel(delayed(function)(item) for item in items))
        return _flat(self._parallel(delayed(each_of)(function, c) for c in _chunks(items, chunk)))

    def each(self, function: Function, items: Sequence[Any]) -> list[Any]:
        """Return the results by its own batches."""
        return self.map(function, items, None)


class Ray:
    """Ray's tasks."""

    def __init__(self, ray: Any) -> None:
        self._ray = ray
        self._each_of = ray.remote(each_of)
        self._functions: dict[Function, Any] = {}

    def map(self, function: Function, items: Sequence[Any], chunk: int | None) -> list[Any]:
        """Return the results of a task for each chunk."""
        if chunk is None:
            return self.each(function, items)
        tasks = [self._each_of.remote(function, part) for part in _chunks(items, chunk)]
        return _flat(self._ray.get(tasks))

    def each(self, function: Function, items: Sequence[Any]) -> list[Any]:
        """Return the results of a task for each item."""
        if function not in self._functions:
            self._functions[function] = self._ray.remote(function)
        task = self._functions[function]
        results: list[Any] = self._ray.get([task.remote(item) for item in items])
        return results


class Dask:
    """Dask's futures on a local cluster."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def map(self, function: Function, items: Sequence[Any], chunk: int | None) -> list[Any]:
        """Return the results of a future for each chunk."""
        if chunk is None:
            return self.each(function, items)
        chunks = [Sealed(part) for part in _chunks(items, chunk)]
        futures = self._client.map(partial(each_sealed, function), chunks, pure=False)
        return _flat([results.items for results in self._client.gather(futures)])

    def each(self, function: Function, items: Sequence[Any]) -> list[Any]:
        """Return the results of a future for each item."""
        results: list[Any] = self._client.gather(self._client.map(function, items, pure=False))
        return results


# How each is opened


@contextmanager
def _loop(_workers: int) -> Iterator[Engine]:
    yield Loop()


@contextmanager
def _myxo(workers: int) -> Iterator[Engine]:
    yield Myxo(workers)


@contextmanager
def _pool(workers: int) -> Iterator[Engine]:
    with multiprocessing.Pool(workers) as pool:
        yield Pool(pool)


@contextmanager
def _joblib(workers: int) -> Iterator[Engine]:
    from joblib import Parallel  # noqa: PLC0415

    with Parallel(n_jobs=workers, backend="loky") as parallel:
        yield Joblib(parallel)


@contextmanager
def _ray(workers: int) -> Iterator[Engine]:
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    import ray  # noqa: PLC0415

    # Its sockets' paths may have 107 bytes, of which it uses some 70 below the folder.
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as folder:
        ray.init(
            num_cpus=workers,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=OBJECT_STORE_BYTES,
            _temp_dir=folder,
            _node_ip_address="127.0.0.1",
        )
        try:
            yield Ray(ray)
        finally:
            ray.shutdown()


@contextmanager
def _dask(workers: int) -> Iterator[Engine]:
    from distributed import Client, LocalCluster  # noqa: PLC0415

    cluster = LocalCluster(  # type: ignore[no-untyped-call]
        n_workers=workers,
        threads_per_worker=1,
        processes=True,
        host="127.0.0.1",
        dashboard_address=None,
    )
    with cluster, Client(cluster) as client:  # type: ignore[no-untyped-call]
        yield Dask(client)


ENGINES: Mapping[str, Callable[[int], AbstractContextManager[Engine]]] = {
    "loop": _loop,
    "myxo": _myxo,
    "pool": _pool,
    "joblib": _joblib,
    "ray": _ray,
    "dask": _dask,
}
"""By name, how each is opened with so many workers."""
