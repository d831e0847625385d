import pytest
import trio

from overlay.errors import PeerUnreachable
from proxy.backend.routed import open_target


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "127.0.0.9"])
async def test_a_target_that_is_this_proxy_is_refused_whatever_its_name(name: str) -> None:
    (listener,) = await trio.open_tcp_listeners(0, host="0.0.0.0")
    port = listener.socket.getsockname()[1]
    with trio.fail_after(60):
        async with listener:
            with pytest.raises(PeerUnreachable, match="this proxy itself"):
                await open_target(f"{name}:{port}", port)
            async with await open_target(f"{name}:{port}", port - 1):
                pass


async def test_a_target_that_nobody_listens_at_is_named() -> None:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    await listener.aclose()
    with pytest.raises(PeerUnreachable, match=f"routing table at 127.0.0.1:{port}"):
        await open_target(f"127.0.0.1:{port}", 1)
