"""Which images the engine has, followed by its events."""

import contextlib
from collections.abc import Callable
from typing import Any

import docker
import structlog
import trio
from docker.errors import APIError

from allocator.engine.client import CUT, close_stream, open_client, say
from allocator.errors import RuntimeDown
from overlay.names import Digest

RETRY_S = 5.0
"""Between looks for an engine that is down; the runtime itself says that it is."""

MAX_FOLLOWED = 4096
"""The newest of them; an engine with more is somebody's build machine."""

_CHANGES = ["pull", "load", "import", "tag", "untag", "delete"]
"""What the engine calls the ways in which an image comes or goes; a build ends in a tag."""

log = structlog.get_logger()

Take = Callable[[tuple[Digest, ...]], None]


async def follow_images(take: Take) -> None:
    """Call `take` with the config digests of the engine's newest images at each change."""
    while True:
        streams: list[Any] = []
        try:
            await trio.to_thread.run_sync(_pump, take, streams.append, abandon_on_cancel=True)
        except (RuntimeDown, APIError, *CUT) as exc:
            log.debug("images.unfollowed", error=say(exc))
            take(())
        finally:
            for stream in streams:
                close_stream(stream)
        await trio.sleep(RETRY_S)


def _pump(take: Take, opened: Callable[[Any], None]) -> None:
    """Run in a thread until the engine ends the stream."""
    with contextlib.closing(open_client()) as client:
        stream = client.events(decode=True, filters={"type": "image", "event": _CHANGES})
        try:
            trio.from_thread.run_sync(opened, stream)
            trio.from_thread.run_sync(take, _listed(client))
            for _ in stream:
                trio.from_thread.run_sync(take, _listed(client))
        finally:  # nobody else does so if the wait for it was given up while it was opened
            close_stream(stream)


def _listed(client: docker.APIClient) -> tuple[Digest, ...]:
    return tuple(Digest(i["Id"]) for i in client.images()[:MAX_FOLLOWED])
