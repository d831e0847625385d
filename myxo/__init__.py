"""What a program imports, and the `myxo` umbrella command."""

from typing import Any

__all__ = ["Executor", "map", "map_sync"]


def __getattr__(name: str) -> Any:
    """Import what a program uses when it uses it: the commands need none of it."""
    if name not in __all__:
        raise AttributeError(f"module 'myxo' has no attribute {name!r}")
    from myxo.mapping import calls, executor  # noqa: PLC0415

    return executor.Executor if name == "Executor" else getattr(calls, name)
