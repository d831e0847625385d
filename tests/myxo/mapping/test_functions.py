"""What is installed goes by its name; what is the program's own goes by value."""

import importlib
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from myxo.mapping.functions import pickled, send_own_modules_by_value
from myxo.mapping.packing import unpack


def arrived(function: Callable[[Any], Any]) -> Any:
    return unpack([pickled(function).data])


def double(item: int) -> int:
    return 2 * item


def shadowed(item: int) -> int:
    return 3 * item


was = shadowed


def shadowed(item: int) -> int:  # type: ignore[no-redef]
    return 4 * item


@pytest.mark.parametrize("function", [statistics.mean, len, sys.intern])
def test_what_is_installed_goes_by_its_name(function: Callable[[Any], Any]) -> None:
    assert arrived(function) is function
    assert pickled(function).data == cloudpickle.dumps(function), "as cloudpickle has it"


@pytest.mark.parametrize("function", [double, lambda item: 2 * item])
def test_what_is_the_programs_own_goes_by_value(function: Callable[[int], int]) -> None:
    send_own_modules_by_value()
    copy = arrived(function)
    assert copy is not function
    assert copy(21) == 42


def test_a_function_that_is_not_found_by_its_name_goes_by_value() -> None:
    assert arrived(was)(10) == 30


def test_a_module_that_comes_later_or_anew_goes_by_value_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    send_own_modules_by_value()
    (tmp_path / "came_later.py").write_text("def f(item):\n    return item + 1\n")
    first = importlib.import_module("came_later")
    send_own_modules_by_value()
    assert arrived(first.f) is not first.f
    cloudpickle.unregister_pickle_by_value(first)
    monkeypatch.delitem(sys.modules, "came_later")
    again = importlib.import_module("came_later")
    send_own_modules_by_value()
    assert arrived(again.f) is not again.f
