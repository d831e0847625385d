"""Objects as parts of a frame: a pickle, and beside it the large buffers that it speaks of."""

import io
import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import CodeType
from typing import Any

import cloudpickle

from myxo.mapping.frames import MAX_PARTS, Bytes

LARGE_BYTES = 1 << 16
"""Buffers of this size and more travel beside the pickle, where nothing copies them."""

NO_FILE = "<dynamic-code>"


class Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # it has no types
    """Cloudpickle's, which calls each function's file `<dynamic-code>`: tracebacks say it here."""

    dispatch_table = cloudpickle.Pickler.dispatch_table.new_child()


def _code(code: CodeType) -> Any:
    made, args, *more = cloudpickle.Pickler.dispatch_table[CodeType](code)
    named = tuple(code.co_filename if arg == NO_FILE else arg for arg in args)
    return made, named, *more


Pickler.dispatch_table[CodeType] = _code


def pickle_of(value: object, in_line: Callable[[pickle.PickleBuffer], bool] | None = None) -> bytes:
    """Return an object's pickle; classes that cannot be imported elsewhere travel in it.

    Args:
        value: the object.
        in_line: says of each large buffer whether it is in the pickle; all are without it.

    Raises what pickling it raises.
    """
    stream = io.BytesIO()
    Pickler(stream, protocol=5, buffer_callback=in_line).dump(value)
    # No view of the stream: Python 3.11 crashes when it finds one in a circle that it clears.
    return stream.getvalue()


def pack(value: object) -> list[Bytes]:
    """Return an object's parts; classes that cannot be imported elsewhere travel in it.

    Raises what pickling it raises.
    """
    buffers: list[Bytes] = []

    def in_line(buffer: pickle.PickleBuffer) -> bool:
        if len(buffers) >= MAX_PARTS - 1:
            return True
        try:
            raw = buffer.raw()
        except BufferError:  # not contiguous
            return True
        if raw.nbytes < LARGE_BYTES:
            return True
        buffers.append(raw)
        return False

    return [pickle_of(value, in_line), *buffers]


def unpicklable(values: Iterable[object]) -> Iterator[tuple[int, Exception]]:
    """Yield which of some values cannot be packed, by position, and why."""
    for at, value in enumerate(values):
        try:
            pack(value)
        except Exception as exc:  # noqa: BLE001  (whatever pickling a user's object raises)
            yield at, exc


def unpack(parts: Sequence[Bytes]) -> Any:
    """Return the object; arrays in it may lie in the parts. Raises what unpickling raises."""
    return pickle.loads(parts[0], buffers=parts[1:])  # noqa: S301  (code is what is sent here)


def call(parts: Sequence[Bytes] | None) -> Any:
    """Return the result of the call that some parts are: a function, arguments and named ones.

    None is a call that was cancelled.
    """
    if parts is None:
        return None
    function, args, kwargs = unpack(parts)
    return function(*args, **kwargs)
