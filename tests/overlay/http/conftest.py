from collections.abc import AsyncIterator

import pytest
import trio

from overlay.http.testing import Lab


@pytest.fixture
async def lab(nursery: trio.Nursery) -> AsyncIterator[Lab]:
    """Give a network on loopback; no test with it may hang."""
    nursery.cancel_scope.deadline = trio.current_time() + 60
    made = Lab(nursery)
    try:
        yield made
    finally:
        made.close()
