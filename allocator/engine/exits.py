"""What has ended, by the engine's event stream; nobody asks for it again and again."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

import docker
import trio
from docker.errors import APIError

from allocator.engine.client import CUT, close_stream, say
from allocator.errors import RuntimeDown

REPLAY_S = 2
"""How far back a fresh event stream reaches, so that nothing is lost while it is opened."""

Take = Callable[[Mapping[str, str]], None]


async def follow_exits(
    client: docker.APIClient,
    labels: Sequence[str],
    settle: Callable[[], Awaitable[None]],
    take: Take,
) -> NoReturn:
    """Call `take` with the attributes, labels among them, of each container that ends.

    Args:
        client: of the engine.
        labels: `name=value`s that the container must have.
        settle: awaited once the stream stands, and before the first `take`.
        take: told of the ends.

    Raises:
        RuntimeDown: the stream broke.
    """
    streams: list[Any] = []
    try:
        async with trio.open_nursery() as nursery:

            async def pump() -> None:
                await trio.to_thread.run_sync(
                    _pump, client, labels, streams.append, settle, take, abandon_on_cancel=True
                )

            nursery.start_soon(pump)
    except* (APIError, *CUT) as group:
        cause = group.exceptions[0]
        raise RuntimeDown(f"the Docker engine was lost: {say(cause)}") from cause
    finally:
        for stream in streams:
            close_stream(stream)
    raise RuntimeDown("the Docker engine was lost: it ended its event stream")


def _pump(
    client: docker.APIClient,
    labels: Sequence[str],
    opened: Callable[[Any], None],
    settle: Callable[[], Awaitable[None]],
    take: Take,
) -> None:
    """Run in a thread: hand the engine's events to the trio side."""
    stream = client.events(
        decode=True,
        since=_engine_now(client) - REPLAY_S,
        filters={"type": "container", "event": ["die"], "label": list(labels)},
    )
    try:
        trio.from_thread.run_sync(opened, stream)
        trio.from_thread.run(settle)
        for event in stream:
            trio.from_thread.run_sync(take, event.get("Actor", {}).get("Attributes", {}))
    finally:
        close_stream(stream)


def _engine_now(client: docker.APIClient) -> int:
    """Return the engine's clock, which need not be this machine's."""
    return int(datetime.fromisoformat(client.info()["SystemTime"]).timestamp())
