"""What tests of maps do as their callers: hand over numbers, and run under either loop."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

Use = Callable[[str], Coroutine[Any, Any, None]]
"""What a caller does with a proxy's address."""


async def numbers(count: int) -> AsyncIterator[int]:
    for number in range(count):
        yield number


def run_under_asyncio(use: Use, address: str) -> None:
    asyncio.run(use(address))
