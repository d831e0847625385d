"""Everything of an allocator that has to do with images, put together."""

from dataclasses import dataclass
from functools import partial
from typing import Any

from allocator.containers import MIB
from allocator.image_engine import DockerImages
from allocator.image_fetch import ImageFetcher
from allocator.image_network import ImageNetwork
from allocator.image_shelf import Shelf
from allocator.image_source import ImageSource
from allocator.instances import Instances
from allocator.metrics import AllocatorMetrics
from allocator.settings import AllocatorSettings
from overlay.definitions import Definitions
from overlay.node import Node


@dataclass(frozen=True, slots=True)
class ImageHub:
    """Fetches images for this machine's instances, and hands on those that it has.

    Attributes:
        network: asks other machines, and judges who asks here.
        shelf: what was fetched, and goes.
        fetcher: brings an image to the engine.
        source: gives one to others.
    """

    network: ImageNetwork
    shelf: Shelf
    fetcher: ImageFetcher
    source: ImageSource

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
    """Return the images' part of an allocator; its shelf's `run` is the caller's to run."""
    folder = settings.state_dir / "images" / node.peer_id
    engine = DockerImages()
    network = ImageNetwork(node, definitions)
    shelf = Shelf(
        engine,
        folder / "fetched.json",
        settings.image_disk_mib * MIB,
        in_use=instances.images,
        registered=network.registered,
    )
    fetcher = ImageFetcher(engine, network, shelf, folder / "coming", metrics.image_bytes)
    source = ImageSource(
        engine,
        network.named,
        folder / "saved",
        settings.image_cache_mib * MIB,
        partial(metrics.image_bytes, "sent"),
    )
    return ImageHub(network, shelf, fetcher, source)
