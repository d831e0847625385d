"""Everything of an allocator that has to do with images, put together."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import trio

from allocator.engine.containers import MIB
from allocator.engine.image_store import DockerImages
from allocator.images.fetch import ImageFetcher
from allocator.images.network import ImageNetwork
from allocator.images.rights import ImageRights
from allocator.images.services import ImageServices
from allocator.images.sharing import Sharing, told
from allocator.images.shelf import Shelf
from allocator.images.source import ImageSource
from allocator.instances.instances import Instances
from allocator.metrics import AllocatorMetrics
from allocator.rules.allowed import allowed_keys
from allocator.settings import AllocatorSettings
from overlay.definitions import Definitions
from overlay.names import Digest
from overlay.node import Node


@dataclass(frozen=True, slots=True)
class ImageHub:
    """Fetches images for this machine's instances, and hands on those that it has.

    Attributes:
        services: say which services name which image.
        shelf: what was fetched, and goes.
        fetcher: brings an image to the engine.
        source: gives one to others.
    """

    services: ImageServices
    shelf: Shelf
    fetcher: ImageFetcher
    source: ImageSource

    async def run(self, changed: Callable[[], None]) -> None:
        """Look after what was fetched, and call `changed` when others may hear of other images."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.shelf.run)
            nursery.start_soon(self.fetcher.run)
            nursery.start_soon(self.services.run, changed)

    def told(self, held: Iterable[Digest]) -> tuple[Digest, ...]:
        """Return which of the images that are here others hear of."""
        return told(held, self.services.registered(), self.shelf.images)

    def status(self) -> dict[str, Any]:
        """Return what `myxo status` shows."""
        return {
            "fetching": self.fetcher.status(),
            "fetched_bytes": self.shelf.held_bytes,
            "kept_for_others_bytes": self.source.kept_bytes,
        }


def open_images(
    settings: AllocatorSettings,
    node: Node,
    definitions: Definitions,
    instances: Instances,
    metrics: AllocatorMetrics,
) -> ImageHub:
    """Return the images' part of an allocator; its `run` is the caller's to run."""
    folder = settings.state_dir / "images" / node.peer_id
    engine = DockerImages()
    services = ImageServices(definitions)
    shelf = Shelf(
        engine,
        folder / "fetched.json",
        settings.image_disk_mib * MIB,
        in_use=instances.images,
        registered=services.registered,
    )

    def sharing() -> Sharing:
        return Sharing(shelf.images, allowed_keys(settings.admin), settings.share_any_image)

    network = ImageNetwork(node, services)
    fetcher = ImageFetcher(engine, network, shelf, folder / "coming", metrics.image_bytes)
    source = ImageSource(
        engine,
        ImageRights(definitions, services, sharing).named,
        folder / "saved",
        settings.image_cache_mib * MIB,
        partial(metrics.image_bytes, "sent"),
        who=network.who,
    )
    return ImageHub(services, shelf, fetcher, source)
