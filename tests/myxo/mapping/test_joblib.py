"""joblib's loops on a real worker."""

import os
import threading
from collections.abc import Iterator

import joblib
import numpy as np
import pytest

import myxo.joblib
from myxo.mapping.errors import NoWorkers
from overlay.testing_ports import free_port


@pytest.fixture
def on_myxo(worker: str) -> Iterator[None]:
    """Have joblib compute on the worker."""
    with joblib.parallel_config(backend="myxo", proxy=worker, n_jobs=2):
        yield


def power(base: int, exponent: int = 2) -> int:
    return int(base**exponent)


def process() -> int:
    return os.getpid()


def fails_at_three(x: int) -> int:
    if x == 3:
        raise LookupError("three is not to be had")
    return x


@pytest.mark.usefixtures("on_myxo")
def test_a_parallel_loop_has_the_results_of_a_plain_one_and_runs_elsewhere() -> None:
    loop = joblib.Parallel()
    assert loop(joblib.delayed(power)(n, exponent=3) for n in range(200)) == [
        n**3 for n in range(200)
    ]
    assert os.getpid() not in loop(joblib.delayed(process)() for _ in range(4))


@pytest.mark.usefixtures("on_myxo")
def test_results_can_be_taken_as_they_come() -> None:
    loop = joblib.Parallel(return_as="generator_unordered")
    assert sorted(loop(joblib.delayed(power)(n) for n in range(50))) == [n**2 for n in range(50)]


@pytest.mark.usefixtures("on_myxo")
def test_arrays_come_back_whole() -> None:
    arrays = [np.full(200_000, n) for n in range(3)]
    results = joblib.Parallel()(joblib.delayed(np.negative)(array) for array in arrays)
    for array, result in zip(arrays, results, strict=True):
        np.testing.assert_array_equal(-array, result)


@pytest.mark.usefixtures("on_myxo")
def test_an_exception_is_raised_and_the_next_loop_runs() -> None:
    with pytest.raises(LookupError, match="three is not"):
        joblib.Parallel()(joblib.delayed(fails_at_three)(n) for n in range(10))
    assert joblib.Parallel()(joblib.delayed(fails_at_three)(n) for n in range(3)) == [0, 1, 2]


@pytest.mark.usefixtures("on_myxo")
def test_what_cannot_travel_is_said() -> None:
    lock = threading.Lock()
    with pytest.raises(Exception, match="lock"):
        joblib.Parallel()(joblib.delayed(lambda: lock)() for _ in range(3))


def test_without_workers_the_loop_fails() -> None:
    nowhere = f"127.0.0.1:{free_port()}"
    with (
        joblib.parallel_config(backend="myxo", proxy=nowhere, n_jobs=2),
        pytest.raises(NoWorkers, match="no proxy answers"),
    ):
        joblib.Parallel()(joblib.delayed(power)(n) for n in range(3))


@pytest.mark.parametrize(("asked", "used"), [(None, 16), (-1, 16), (3, 3)])
def test_workers_are_as_many_as_were_asked_for(asked: int | None, used: int) -> None:
    assert myxo.joblib.MyxoBackend().effective_n_jobs(asked) == used


def test_no_workers_are_no_number_of_workers() -> None:
    with pytest.raises(ValueError, match="n_jobs is 0"):
        myxo.joblib.MyxoBackend().effective_n_jobs(0)
