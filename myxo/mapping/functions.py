"""A function as bytes that another machine makes the same function of.

What a program defines itself (`__main__`, notebooks, modules beside the program) travels by value;
what is installed is imported by the worker.
"""

import functools
import hashlib
import importlib.metadata
import inspect
import sys
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import cloudpickle

from myxo.mapping.errors import Unpicklable
from myxo.mapping.packing import pickle_of

_INSTALLED_UNDER = tuple(
    Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib")
)


@dataclass(frozen=True, slots=True)
class PickledFunction:
    """A function on its way.

    Attributes:
        data: its pickle.
        digest: SHA-256 of `data`, by which workers keep it.
    """

    data: bytes
    digest: bytes


def pickled(function: Callable[[Any], Any]) -> PickledFunction:
    """Return a function's pickle.

    Raises:
        Unpicklable: something that it uses cannot travel; the message names it.
    """
    try:
        data = pickle_of(function)
    except Exception as exc:  # whatever pickling a user's object raises
        raise Unpicklable(f"{_named(function)} cannot be sent: {_culprit(function, exc)}") from exc
    return PickledFunction(data, hashlib.sha256(data).digest())


_seen: dict[str, ModuleType] = {}
"""The modules that were looked at: there may be thousands, and few come between two maps."""


def send_own_modules_by_value() -> None:
    """Have what is in modules that are not installed travel with what uses it, from now on."""
    newest = next(reversed(sys.modules))
    if len(_seen) == len(sys.modules) and _seen.get(newest) is sys.modules.get(newest):
        return  # to compare them all takes as long as some thousand small items do
    for name, module in tuple(sys.modules.items()):
        if _seen.get(name) is not module and _is_own(name, module):
            cloudpickle.register_pickle_by_value(module)
        _seen[name] = module


def _is_own(name: str, module: ModuleType) -> bool:
    file = getattr(module, "__file__", None)
    if name == "__main__" or file is None or getattr(module, "__name__", None) != name:
        return False
    return is_own_file(name, file)


def is_own_file(name: str, file: str) -> bool:
    """Whether a module of that name, in that file, is no installed one."""
    return not _is_installed(file) and name.partition(".")[0] not in _distributed()


@functools.cache
def _is_installed(file: str) -> bool:
    """Whether a file is where what is installed lies; asked of each module for each map."""
    path = Path(file)
    return any(path.is_relative_to(root) for root in _INSTALLED_UNDER)


@functools.cache
def _distributed() -> frozenset[str]:
    """Return the top-level names of what is installed, in place too."""
    return frozenset(importlib.metadata.packages_distributions()) | {__name__.partition(".")[0]}


def _culprit(function: Callable[[Any], Any], error: Exception) -> str:
    """Return which of the things that a function uses cannot be pickled, and why."""
    for name, value in _used(function):
        try:
            pickle_of(value)
        except Exception as exc:  # noqa: BLE001  (whatever pickling a user's object raises)
            return f"{name} (a {type(value).__qualname__}): {exc}"
    return str(error)


def _used(function: Callable[[Any], Any]) -> Iterator[tuple[str, object]]:
    if isinstance(function, functools.partial):
        yield from ((f"argument {value!r}", value) for value in function.args)
        yield from ((f"argument {name}", value) for name, value in function.keywords.items())
        function = function.func
    owner = getattr(function, "__self__", None)
    if owner is not None and not isinstance(owner, ModuleType):
        yield "the object whose method it is", owner
    try:
        used = inspect.getclosurevars(function)
    except TypeError:
        return
    yield from used.nonlocals.items()
    yield from used.globals.items()
    for value in getattr(function, "__defaults__", None) or ():
        yield "a default argument", value


def _named(function: object) -> str:
    return str(getattr(function, "__qualname__", None) or repr(function))
