import docker
import pytest
import trio

from allocator.engine.images import follow_images
from overlay.names import Digest

pytestmark = pytest.mark.docker

NAME = "myxo-test-images"
TAG = f"{NAME}:1"


@pytest.fixture
def client() -> docker.APIClient:
    client = docker.from_env().api
    yield client
    client.remove_image(TAG, force=True)
    client.close()


async def test_images_that_come_are_told_at_once(client: docker.APIClient) -> None:
    seen: list[tuple[Digest, ...]] = []
    news = trio.Event()

    def take(images: tuple[Digest, ...]) -> None:
        nonlocal news
        seen.append(images)
        news.set()
        news = trio.Event()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow_images, take)
        with trio.fail_after(60):
            while not seen:
                await news.wait()
            client.import_image_from_data(bytes(10240), repository=NAME, tag="1")
            wanted = client.inspect_image(TAG)["Id"]
            while wanted not in seen[-1]:
                await news.wait()
        nursery.cancel_scope.cancel()
