"""Spans of time as people write them."""

import re
from math import isfinite

from bench.lab.errors import BadInput

_UNITS_S = {"": 1.0, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ms|s|m|h|)")


def seconds(text: object) -> float:
    """Return the seconds that `10s`, `1.5m`, `1h30m`, `200ms` or a bare number mean.

    Raises:
        BadInput: it means none.
    """
    found = _read(text.strip().lower()) if isinstance(text, str) else text
    if not isinstance(found, int | float) or not isfinite(found) or found < 0:
        raise BadInput(f"{text!r} is no duration; write 10s, 1.5m, 1h30m or 200ms")
    return float(found)


def _read(text: str) -> float | None:
    parts = _PART.findall(text)
    bare = len(parts) > 1 and any(not unit for _, unit in parts)
    if not parts or bare or "".join(value + unit for value, unit in parts) != text:
        return None
    return sum(float(value) * _UNITS_S[unit] for value, unit in parts)
