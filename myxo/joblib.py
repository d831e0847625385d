"""joblib on the machines of the network: import this, then name the backend `myxo`.

    import joblib, myxo.joblib

    with joblib.parallel_config(backend="myxo", n_jobs=8):
        results = joblib.Parallel()(joblib.delayed(f)(x) for x in items)

So scikit-learn's own parallel loops run there too. `n_jobs` is how many workers are used at once,
and -1 is `WORKERS`; joblib's batches grow with the measured time of its calls, as with its own
backends.
"""

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from joblib import register_parallel_backend
from joblib.parallel import AutoBatchingMixin, ParallelBackendBase

from myxo.mapping.executor import Executor

WORKERS = 16
"""For `n_jobs=-1`: joblib has to know a number before any machine was asked."""


class MyxoBackend(AutoBatchingMixin, ParallelBackendBase):  # type: ignore[misc]
    """joblib's calls on an executor.

    Args:
        proxy: as of `myxo.map`.
        options: joblib's own, for all backends.
    """

    supports_retrieve_callback = True
    default_n_jobs = -1

    def __init__(self, *, proxy: str | None = None, **options: Any) -> None:
        super().__init__(**options)
        self._proxy = proxy
        self._executor: Executor | None = None

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """Return how many workers are used at once.

        Raises:
            ValueError: `n_jobs` is 0.
        """
        if n_jobs == 0:
            raise ValueError("n_jobs is 0; it is a number from 1, or -1")
        return WORKERS if n_jobs is None or n_jobs < 0 else n_jobs

    def configure(self, n_jobs: int = 1, parallel: Any = None, **options: Any) -> int:
        """Begin to be used by one `Parallel`; return how many workers are."""
        del options  # hints of what kind of backend to take
        self.parallel = parallel
        workers = self.effective_n_jobs(n_jobs)
        self._executor = Executor(workers, proxy=self._proxy)
        return workers

    def submit(
        self, func: Callable[[], Any], callback: Callable[[Future[Any]], Any] | None = None
    ) -> Future[Any]:
        """Have a batch of calls computed."""
        if self._executor is None:
            raise RuntimeError("the backend is not configured")
        future = self._executor.submit(func)
        if callback is not None:
            future.add_done_callback(callback)
        return future

    def retrieve_result_callback(self, out: Future[Any]) -> Any:
        """Return a batch's results; raise what it raised."""
        return out.result()

    def terminate(self) -> None:
        """End the use by a `Parallel`; what was not sent to a worker is not computed."""
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)
            self._executor = None
        self.reset_batch_stats()

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Have nothing more computed, after a failure; what workers are at is computed in vain."""
        self.terminate()
        if ensure_ready:
            self.configure(self.parallel.n_jobs, self.parallel)


register_parallel_backend("myxo", MyxoBackend)
