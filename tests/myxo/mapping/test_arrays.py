"""Arrays and frames on a real worker: what comes back is what a plain loop would have made."""

import numpy as np
import pandas as pd
import pytest

import myxo
from bench.map.copies import copies_of_an_array


@pytest.mark.parametrize("count", [1, 7])
def test_arrays_go_and_come_whole(worker: str, count: int) -> None:
    random = np.random.default_rng(7)
    arrays = [random.random((500, 300)) for _ in range(count)]
    results = myxo.map_sync(lambda a: a.T @ a, arrays, proxy=worker)
    for array, result in zip(arrays, results, strict=True):
        np.testing.assert_array_equal(result, array.T @ array)


def test_an_arrays_rows_are_its_items(worker: str) -> None:
    table = np.arange(600).reshape(200, 3)
    results = myxo.map_sync(lambda row: int(row.sum()), table, proxy=worker)
    assert results == [int(row.sum()) for row in table]


def test_an_arrays_numbers_keep_their_type(worker: str) -> None:
    numbers = np.linspace(0, 1, 50, dtype=np.float32)
    results = myxo.map_sync(np.sqrt, numbers, proxy=worker)
    assert [type(result) for result in results] == [np.float32] * 50
    np.testing.assert_array_equal(results, np.sqrt(numbers))


@pytest.mark.parametrize("dtype", ["datetime64[s]", "complex128", "U5", "object", "bool"])
def test_arrays_of_other_types_come_back(worker: str, dtype: str) -> None:
    array = np.array([1, 2, 3]).astype(dtype)
    (result,) = myxo.map_sync(lambda a: a[::-1], [array], proxy=worker)
    np.testing.assert_array_equal(result, array[::-1])
    assert result.dtype == array.dtype


def test_what_is_not_contiguous_travels_too(worker: str) -> None:
    wide = np.arange(1_000_000).reshape(1000, 1000)
    (result,) = myxo.map_sync(lambda a: a * 2, [wide[::2, ::3]], proxy=worker)
    np.testing.assert_array_equal(result, wide[::2, ::3] * 2)


def test_an_array_that_came_can_be_written_to(worker: str) -> None:
    def doubled(array: np.ndarray) -> np.ndarray:
        array *= 2
        return array

    array = np.ones(100_000)
    (result,) = myxo.map_sync(doubled, [array], proxy=worker)
    result += 1
    np.testing.assert_array_equal(result, np.full(100_000, 3.0))
    np.testing.assert_array_equal(array, np.ones(100_000))  # the caller's own is as it was


def test_a_series_values_are_its_items(worker: str) -> None:
    series = pd.Series([3, 1, 2], index=["a", "b", "c"])
    assert myxo.map_sync(lambda x: int(x) + 1, series, proxy=worker) == [4, 2, 3]


def test_frames_go_and_come_whole(worker: str) -> None:
    frame = pd.DataFrame(
        {
            "group": ["x", "y", "x"],
            "value": [1.5, None, 2.5],
            "when": pd.date_range("2020", periods=3),
        }
    )
    groups = [part for _, part in frame.groupby("group")]
    results = myxo.map_sync(lambda f: f.assign(value=f["value"] * 2), groups, proxy=worker)
    for part, result in zip(groups, results, strict=True):
        pd.testing.assert_frame_equal(result, part.assign(value=part["value"] * 2))


def test_exceptions_of_these_libraries_come_back(worker: str) -> None:
    with pytest.raises(np.linalg.LinAlgError, match="Singular"):
        myxo.map_sync(np.linalg.inv, [np.zeros((2, 2))], proxy=worker)
    with pytest.raises(KeyError, match="nothing"):
        myxo.map_sync(lambda f: f["nothing"], [pd.DataFrame({"a": [1]})], proxy=worker)


def test_neither_end_copies_an_array(worker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MYXO_PROXY", worker)
    copies = copies_of_an_array(8 << 20)
    assert all(0 <= copies[way] < 0.1 for way in ("there", "back"))
