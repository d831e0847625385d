"""Pulls from a real registry by a real engine: what is told of them, and what they prove."""

import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import docker
import pytest
import trio

from allocator.engine.containers import Ownership
from allocator.engine.docker import DockerRuntime
from allocator.engine.image_store import DockerImages
from allocator.errors import ImageMissing
from allocator.images.fetch import ImageFetcher
from allocator.images.shelf import Shelf
from allocator.runtime import Launch
from allocator.testing_images import FakePeers, layer_tar, make_image
from overlay.names import Digest, InstanceId, PeerId, ServiceName
from overlay.spec import Image, ServiceSpec

pytestmark = pytest.mark.docker

OWNER = PeerId("owner")
SIZE = 6 * 2**20
GATED_AFTER = 2 * 2**20


@dataclass
class Gate:
    """A way to a registry on which, after some of a layer, nothing comes until it is opened."""

    registry: str
    port: int = 0
    opened: trio.Event = field(default_factory=trio.Event)

    async def serve(self, client: trio.SocketStream) -> None:
        host, _, port = self.registry.partition(":")
        upstream = await trio.open_tcp_stream(host, int(port))
        async with client, upstream, trio.open_nursery() as nursery:
            nursery.start_soon(self._copy, client, upstream, None)
            await self._copy(upstream, client, GATED_AFTER)
            nursery.cancel_scope.cancel()

    async def _copy(
        self, source: trio.SocketStream, target: trio.SocketStream, most: int | None
    ) -> None:
        passed = 0
        with suppress(trio.BrokenResourceError):  # the engine leaves connections as it likes
            async for data in source:
                await target.send_all(data)
                passed += len(data)
                if most is not None and passed >= most:
                    await self.opened.wait()


@asynccontextmanager
async def gated(registry: str) -> AsyncIterator[Gate]:
    gate = Gate(registry)
    serve = partial(trio.serve_tcp, gate.serve, 0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        (listener, *_) = await nursery.start(serve)
        gate.port = listener.socket.getsockname()[1]
        yield gate
        nursery.cancel_scope.cancel()


@dataclass
class Pushed:
    """An image in a registry, not in the engine."""

    client: docker.APIClient
    registry: str
    digest: Digest
    manifest: str

    def image(self, host: str = "") -> Image:
        name = f"{host or self.registry}/team/web"
        return Image(
            reference=f"{name}:1",
            config_digest=self.digest,
            repo_digest=f"{name}@{self.manifest}",
            size_bytes=SIZE,
        )


@pytest.fixture
def pushed(engine: docker.APIClient, docker_registry: str) -> Iterator[Pushed]:
    name = f"{docker_registry}/team/web"
    layer = layer_tar("payload", secrets.token_bytes(SIZE))
    engine.import_image_from_data(layer, repository=name, tag="1")
    digest = Digest(engine.inspect_image(f"{name}:1")["Id"])
    for line in engine.push(name, tag="1", stream=True, decode=True):
        assert "error" not in line, line
    (manifest,) = (d.partition("@")[2] for d in engine.inspect_image(digest)["RepoDigests"])
    engine.remove_image(digest, force=True)
    yield Pushed(engine, docker_registry, digest, manifest)
    for found in engine.images(all=True):
        if found["Id"] == digest:
            engine.remove_image(digest, force=True)


def fetcher_in(folder: Path) -> ImageFetcher:
    engine = DockerImages()
    shelf = Shelf(engine, folder / "fetched.json", 0, in_use=set, registered=set)
    return ImageFetcher(engine, FakePeers(), shelf, folder / "coming")


async def test_an_image_comes_from_its_registry_and_how_far_it_is_is_shown(
    pushed: Pushed, tmp_path: Path
) -> None:
    fetcher = fetcher_in(tmp_path)
    with trio.fail_after(60):
        async with gated(pushed.registry) as gate:
            image = pushed.image(f"127.0.0.1:{gate.port}")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(fetcher.fetch, image, OWNER)
                while not (shown := fetcher.status()) or not shown[0]["bytes"]:
                    await trio.lowlevel.checkpoint()
                gate.opened.set()
            assert 0 < shown[0]["bytes"] < shown[0]["total_bytes"]
            assert shown[0]["total_bytes"] >= SIZE
            assert shown[0]["from"] == [f"127.0.0.1:{gate.port}"]
    assert await DockerImages().size_bytes(pushed.digest)
    assert fetcher.status() == []


async def test_an_image_that_may_run_for_its_name_alone_has_to_come_under_that_name(
    pushed: Pushed, tmp_path: Path
) -> None:
    runtime = DockerRuntime(Ownership("network", PeerId("me")))
    runtime.fetch = fetcher_in(tmp_path).fetch
    runtime.rests_on_name = lambda owner, _: owner == OWNER
    pushed.client.pull(f"{pushed.registry}/team/web", tag="1")
    pushed.client.tag(pushed.digest, "myxo-test-other", "1")
    pushed.client.remove_image(f"{pushed.registry}/team/web:1")
    assert pushed.client.inspect_image(pushed.digest)["RepoDigests"] == []
    launch = Launch(
        InstanceId("an-id"),
        ServiceName("hello"),
        1,
        OWNER,
        ServiceSpec(image=pushed.image()),
        4200,
    )
    with trio.fail_after(60):
        with pytest.raises(ImageMissing, match="not here under the name"):
            await runtime.create(launch)
        await runtime.pull(launch)
        assert await DockerImages().repo_digests(pushed.digest) == (pushed.image().repo_digest,)


async def test_what_no_registry_vouches_for_is_refused_however_near_it_is(
    pushed: Pushed, tmp_path: Path
) -> None:
    fetcher = fetcher_in(tmp_path)
    nowhere = pushed.image("127.0.0.1:1")
    with trio.fail_after(60), pytest.raises(ImageMissing, match="for its name alone"):
        await fetcher.fetch(nowhere, OWNER, by_name=True)


async def test_another_image_than_the_service_names_does_not_stay(
    pushed: Pushed, tmp_path: Path
) -> None:
    other = make_image(b"other").digest
    false = pushed.image().model_copy(update={"config_digest": other})
    with trio.fail_after(60), pytest.raises(ImageMissing, match="which the service names"):
        await fetcher_in(tmp_path).fetch(false, OWNER)
    assert await DockerImages().size_bytes(pushed.digest) is None
