"""PUMA's four functions: a program becomes services at paths of one port, and maps over machines.

    from myxo import puma

    puma.puma_config({"puma_services": {"service1": "/policy"}})
    puma.puma_service({"service1": policy})
    puma.puma_start()

and anywhere `await puma.puma_map(function, items)`. A service has `request` in its scope;
that it can be imported from here, too, is for linters and type checkers.
"""

from typing import Any

__all__ = ["puma_config", "puma_map", "puma_service", "puma_start", "request"]


def __getattr__(name: str) -> Any:
    """Import what a program uses when it uses it: the processes of services need none of it."""
    if name not in __all__:
        raise AttributeError(f"module 'myxo.puma' has no attribute {name!r}")
    from myxo.puma import current_request, program  # noqa: PLC0415

    return getattr(current_request if name == "request" else program, name)
