"""Durations as Envoy's configuration has them: `5s`, `{"seconds": 5, "nanos": 0}`, a number."""

import re
from typing import Annotated, Any

from pydantic import BeforeValidator

from myxo.puma.keys import from_json

_TEXT = re.compile(r"(\d+(?:\.\d+)?)(ms|s)?")
_UNITS = {"s": 1.0, None: 1.0, "ms": 0.001}


def seconds(written: Any) -> float:
    """Return how many seconds `written` is.

    Raises:
        ValueError: it is no duration.
    """
    match from_json(written):
        case bool():
            pass
        case int() | float():
            return float(written)
        case str() if found := _TEXT.fullmatch(written.strip()):
            return float(found[1]) * _UNITS[found[2]]
        case {"seconds": int() | float() as whole, "nanos": int() as part}:
            return float(whole) + part / 1e9
        case {"seconds": int() | float() as whole, **rest} if not rest:
            return float(whole)
        case _:
            pass
    raise ValueError(f'{written!r} is no duration: say seconds, "5s" or {{"seconds": 5}}')


Duration = Annotated[float, BeforeValidator(seconds)]
