"""What a program imports, and the `myxo` umbrella command."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from myxo.mapping.calls import map, map_sync  # noqa: A004  (what it is)
    from myxo.mapping.executor import Executor
    from myxo.serving.service import service

_WHERE = {
    "Executor": "myxo.mapping.executor",
    "map": "myxo.mapping.calls",
    "map_sync": "myxo.mapping.calls",
    "service": "myxo.serving.service",
}

__all__ = ["Executor", "map", "map_sync", "service"]


def __getattr__(name: str) -> Any:
    """Import what a program uses when it uses it: the commands need none of it."""
    if name not in _WHERE:
        raise AttributeError(f"module 'myxo' has no attribute {name!r}")
    return getattr(importlib.import_module(_WHERE[name]), name)
