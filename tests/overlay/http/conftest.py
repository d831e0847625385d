from collections.abc import AsyncIterator

import pytest
import trio

from overlay.http.testing import Lab
from overlay.identity import Identity
from overlay.passphrase import network_keys
from overlay.tls import PeerTls, open_tls


@pytest.fixture
async def lab(nursery: trio.Nursery) -> AsyncIterator[Lab]:
    """Give a network on loopback; no test with it may hang."""
    nursery.cancel_scope.deadline = trio.current_time() + 60
    made = Lab(nursery)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope="session")
def tls() -> PeerTls:
    """Give the TLS contexts of a peer, for either end."""
    return open_tls(network_keys("secret"), Identity.generate().peer_id)
