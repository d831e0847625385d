"""What every engine's images must do, asked of each: in memory, and of a real Docker engine."""

import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import pytest
import trio
from docker.errors import ImageNotFound

from allocator.engine.image_store import DockerImages
from allocator.errors import ImageMissing
from allocator.images.archive import read_archive, written_archive
from allocator.images.plan import ImageWrong
from allocator.testing_images import FakeImage, FakeImages, layer_tar, make_image
from overlay.names import Digest


@dataclass
class Lab:
    images: FakeImages | DockerImages
    client: Any = None

    def image(self, *names: str) -> FakeImage:
        """Return an image of layers that no other test has."""
        return make_image(*(layer_tar(name, secrets.token_bytes(3000)) for name in names))

    async def load(self, image: FakeImage, folder: Path, *layers: Digest) -> None:
        """Have the engine take in an image, of which `layers` come along."""
        files = {}
        for number, layer in enumerate(layers):
            files[layer] = folder / str(number)
            files[layer].write_bytes(image.layers[layer])
        archive = written_archive(image.digest, image.config, list(image.layers), files)
        await self.images.load(archive)


@pytest.fixture(params=["fake", pytest.param("docker", marks=pytest.mark.docker)])
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    if request.param == "fake":
        yield Lab(FakeImages())
        return
    client = docker.from_env()
    loaded: list[FakeImage] = []
    lab = Lab(DockerImages(), client)
    make = lab.image

    def noted(*names: str) -> FakeImage:
        loaded.append(made := make(*names))
        return made

    lab.image = noted  # type: ignore[method-assign]
    yield lab
    for image in loaded:
        try:
            client.images.remove(image.digest, force=True)
        except ImageNotFound:
            continue
    client.close()


async def test_an_image_that_is_taken_in_is_there(lab: Lab, tmp_path: Path) -> None:
    image = lab.image("one", "two")
    with trio.fail_after(60):
        assert await lab.images.size_bytes(image.digest) is None
        await lab.load(image, tmp_path, *image.layers)
        assert await lab.images.size_bytes(image.digest)
        assert tuple(image.layers) in await lab.images.held_layers()


async def test_a_saved_image_has_its_config_and_its_layers(lab: Lab, tmp_path: Path) -> None:
    image = lab.image("one", "two")
    path = tmp_path / "saved.tar"
    with trio.fail_after(60):
        await lab.load(image, tmp_path, *image.layers)
        await lab.images.save(image.digest, path, 10**9)
    archive = read_archive(path, image.digest)
    assert archive.config == image.config
    saved = path.read_bytes()
    for layer, place in archive.layers.items():
        assert saved[place.offset : place.offset + place.size_bytes] == image.layers[layer]
    assert list(archive.layers) == list(image.layers)


async def test_layers_that_the_engine_has_need_not_come_along(lab: Lab, tmp_path: Path) -> None:
    below = lab.image("base")
    above = lab.image("app")
    both = make_image(*below.layers.values(), *above.layers.values())
    with trio.fail_after(60):
        await lab.load(below, tmp_path, *below.layers)
        await lab.load(both, tmp_path, *above.layers)
        assert await lab.images.size_bytes(both.digest)
        assert await lab.images.remove(both.digest)
        assert await lab.images.size_bytes(below.digest)


async def test_a_layer_that_is_not_what_it_is_named_for_is_refused(
    lab: Lab, tmp_path: Path
) -> None:
    image, other = lab.image("one"), lab.image("other")
    swapped = FakeImage(image.config, dict(zip(image.layers, other.layers.values(), strict=True)))
    with trio.fail_after(60), pytest.raises(ImageMissing):
        await lab.load(swapped, tmp_path, *swapped.layers)
    assert await lab.images.size_bytes(image.digest) is None


async def test_an_archive_that_is_cut_before_its_manifest_leaves_nothing(
    lab: Lab, tmp_path: Path
) -> None:
    image = lab.image("one", "two")
    files = {}
    for layer, data in image.layers.items():
        files[layer] = tmp_path / layer
        files[layer].write_bytes(data)

    def cut() -> Iterator[bytes]:
        pieces = written_archive(image.digest, image.config, list(image.layers), files)
        for piece in pieces:
            if b"manifest.json" in piece:
                raise ImageWrong("a layer is not what it is named for")
            yield piece

    with trio.fail_after(60), pytest.raises(ImageWrong):
        await lab.images.load(cut())
    assert await lab.images.size_bytes(image.digest) is None
    assert tuple(image.layers) not in await lab.images.held_layers()


async def test_an_image_larger_than_allowed_is_not_saved(lab: Lab, tmp_path: Path) -> None:
    image = lab.image("one")
    with trio.fail_after(60):
        await lab.load(image, tmp_path, *image.layers)
        with pytest.raises(ImageWrong):
            await lab.images.save(image.digest, tmp_path / "saved.tar", 100)
        with pytest.raises(ImageMissing):
            await lab.images.save(Digest("sha256:" + "0" * 64), tmp_path / "saved.tar", 100)


async def test_a_removed_image_is_gone_and_may_be_removed_again(lab: Lab, tmp_path: Path) -> None:
    image = lab.image("one")
    with trio.fail_after(60):
        await lab.load(image, tmp_path, *image.layers)
        assert await lab.images.remove(image.digest)
        assert await lab.images.size_bytes(image.digest) is None
        assert await lab.images.remove(image.digest)


async def test_what_was_not_pulled_is_known_by_no_registrys_name(lab: Lab, tmp_path: Path) -> None:
    image = lab.image("one")
    with trio.fail_after(60):
        await lab.load(image, tmp_path, *image.layers)
        assert await lab.images.repo_digests(image.digest) == ()
        assert await lab.images.repo_digests(make_image(b"nowhere").digest) == ()
        assert not await lab.images.has(f"127.0.0.1:1/nothing@{image.digest}")


async def test_what_no_registry_has_cannot_be_pulled(lab: Lab) -> None:
    nowhere = "127.0.0.1:1/nothing@sha256:" + "0" * 64
    with trio.fail_after(60), pytest.raises(ImageMissing):
        await lab.images.pull(nowhere, lambda _done, _total: None)


@pytest.mark.docker
async def test_an_image_that_was_given_a_name_is_not_removed(tmp_path: Path) -> None:
    client = docker.from_env()
    image = make_image(layer_tar("named", secrets.token_bytes(3000)))
    lab = Lab(DockerImages())
    try:
        with trio.fail_after(60):
            await lab.load(image, tmp_path, *image.layers)
            client.images.get(image.digest).tag("myxo-test-named", "1")
            assert await lab.images.remove(image.digest)
            assert await lab.images.size_bytes(image.digest)
    finally:
        client.images.remove(image.digest, force=True)
        client.close()
