"""What a program imports, and the `myxo` umbrella command."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from myxo.mapping.calls import map, map_sync  # noqa: A004  (what it is)
    from myxo.mapping.executor import Executor
    from myxo.services.call import Client, SyncClient, call, call_sync
    from myxo.services.connecting import connect
    from myxo.serving.service import service

_WHERE = {
    "Client": "myxo.services.call",
    "Executor": "myxo.mapping.executor",
    "SyncClient": "myxo.services.call",
    "call": "myxo.services.call",
    "call_sync": "myxo.services.call",
    "connect": "myxo.services.connecting",
    "map": "myxo.mapping.calls",
    "map_sync": "myxo.mapping.calls",
    "service": "myxo.serving.service",
}

__all__ = [
    "Client",
    "Executor",
    "SyncClient",
    "call",
    "call_sync",
    "connect",
    "map",
    "map_sync",
    "service",
]


def __getattr__(name: str) -> Any:
    """Import what a program uses when it uses it: the commands need none of it."""
    if name not in _WHERE:
        raise AttributeError(f"module 'myxo' has no attribute {name!r}")
    return getattr(importlib.import_module(_WHERE[name]), name)
