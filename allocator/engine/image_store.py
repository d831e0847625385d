"""The container engine as the images' store: save, load, pull, look, remove; each call a thread.

Each call has a client of its own, so that one that hangs holds up no other. A transfer that makes
no progress for `SILENCE_S` is given up; its thread ends at the engine's next word, or when its
socket was silent for as long.
"""

import contextlib
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import docker
import requests
import trio
from docker.errors import APIError, DockerException, ImageNotFound

from allocator.engine.client import CUT, open_client, say
from allocator.errors import ImageMissing, RuntimeDown
from allocator.images.plan import ImageWrong
from allocator.images.pulled import Pulled
from overlay.names import Digest

SILENCE_S = 60.0
"""Without a byte more; a registry behind a slow line says something each second."""

WATCH_S = 1.0

CALLS_AT_ONCE = 4
TRANSFERS_AT_ONCE = 12
"""The fetches of `image_lanes`, each of which has one, a save, and some that were just given up."""

T = TypeVar("T")
Told = Callable[[int], None]
"""Is called with how many bytes there are so far."""

ToldOf = Callable[[int, int], None]
"""Is called, on the trio side, with how many bytes came, and of how many that are known of."""


class DockerImages:
    """The images of the engine that the environment names."""

    def __init__(self) -> None:
        self._limiter = trio.CapacityLimiter(CALLS_AT_ONCE)
        self._transfers = trio.CapacityLimiter(TRANSFERS_AT_ONCE)

    async def size_bytes(self, image: Digest) -> int | None:
        """Return how large an image is as the engine counts it; None if it is not there."""
        return await self._run(lambda client: _size(client, image))

    async def repo_digests(self, image: Digest) -> tuple[str, ...]:
        """Return the `NAME@sha256:…`s that the engine itself pulled or pushed an image by."""
        return await self._run(lambda client: _repo_digests(client, image))

    async def has(self, reference: str) -> bool:
        """Return whether the engine knows an image by this name."""
        return await self._run(lambda client: _size(client, reference)) is not None

    async def held_layers(self) -> list[tuple[Digest, ...]]:
        """Return the layers of each image that is there, the lowest first."""
        return await self._run(_held_layers)

    async def free_bytes(self) -> int | None:
        """Return what is free on the engine's disk; None if that is not this machine's."""
        return await self._run(_free)

    async def save(self, image: Digest, path: Path, most_bytes: int) -> None:
        """Write the archive of an image.

        Raises:
            ImageWrong: it is larger than `most_bytes`.
            ImageMissing: it is not there.
        """

        def save(client: docker.APIClient, told: Told) -> None:
            written = 0
            with path.open("wb") as file:
                for piece in client.get_image(image):
                    written += len(piece)
                    if written > most_bytes:
                        raise ImageWrong(f"{image} has more than {most_bytes} bytes")
                    file.write(piece)
                    told(written)

        await self._transfer(save, lambda _: None)

    async def load(self, pieces: Iterable[bytes]) -> None:
        """Take an archive in.

        Raises:
            ImageMissing: the engine does not like it.
        """

        def load(client: docker.APIClient, told: Told) -> None:
            count = 0

            def tell(more: int) -> None:
                nonlocal count
                count += more
                told(count)

            def sent() -> Iterator[bytes]:
                for piece in pieces:
                    yield piece
                    tell(len(piece))

            _read(client.load_image(sent()), lambda _: tell(1))

        await self._transfer(load, lambda _: None)

    async def pull(self, reference: str, told: ToldOf) -> Digest:
        """Pull an image from its registry; return its config's digest.

        What is told are the bytes of the layers that come, compressed as they are; that they are
        unpacked is progress too.

        Raises:
            ImageMissing: it cannot be pulled.
        """

        def pull(client: docker.APIClient, tell: Told) -> Digest:
            def take(line: dict[str, Any]) -> None:
                pulled.take(line)
                tell(pulled.steps)

            _read(client.pull(reference, stream=True, decode=True), take)
            return Digest(client.inspect_image(reference)["Id"])

        pulled = Pulled()
        return await self._transfer(pull, lambda _: told(pulled.done_bytes, pulled.total_bytes))

    async def remove(self, image: Digest) -> bool:
        """Remove an image that has no name and no container; return whether it is gone."""
        return await self._run(lambda client: _remove(client, image))

    async def _run(self, work: Callable[[docker.APIClient], T]) -> T:
        def with_client() -> T:
            with _client() as client:
                return work(client)

        return await trio.to_thread.run_sync(
            with_client, limiter=self._limiter, abandon_on_cancel=True
        )

    async def _transfer(self, work: Callable[[docker.APIClient, Told], T], told: Told) -> T:
        """Run `work` in a thread; end it if it tells nothing new for `SILENCE_S` seconds."""
        heard = 0
        left = False
        results: list[T] = []

        def hear(count: int) -> None:
            nonlocal heard
            heard = count
            if left:  # nobody waits any more; the thread ends here, or at its next silence
                raise ImageMissing("it was given up")

        def in_thread() -> None:
            with _client() as client:
                results.append(work(client, hear))

        async def watch() -> None:
            last, since = heard, trio.current_time()
            while trio.current_time() - since < SILENCE_S:
                await trio.sleep(WATCH_S)
                if heard != last:
                    last, since = heard, trio.current_time()
                    told(last)
            raise ImageMissing(f"the engine made no progress for {SILENCE_S:g} s")

        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(watch)
                await trio.to_thread.run_sync(
                    in_thread, limiter=self._transfers, abandon_on_cancel=True
                )
                told(heard)
                nursery.cancel_scope.cancel()
        except* (ImageMissing, ImageWrong, RuntimeDown) as group:
            raise group.exceptions[0] from None
        finally:
            left = True
        return results[0]


@contextlib.contextmanager
def _client() -> Iterator[docker.APIClient]:
    """Yield a client; what the engine says no to becomes an error of this package."""
    client = open_client()
    try:
        yield client
    except ImageNotFound as exc:
        raise ImageMissing(f"the engine does not have it: {say(exc)}") from exc
    except (DockerException, requests.exceptions.InvalidURL) as exc:  # also for what is no name
        raise ImageMissing(f"the engine refuses: {say(exc)}") from exc
    except CUT as exc:
        raise RuntimeDown(f"the Docker engine does not answer: {say(exc)}") from exc
    finally:
        client.close()


def _size(client: docker.APIClient, image: str) -> int | None:
    try:
        return int(client.inspect_image(image)["Size"])
    except ImageNotFound:
        return None


def _repo_digests(client: docker.APIClient, image: Digest) -> tuple[str, ...]:
    try:
        return tuple(client.inspect_image(image).get("RepoDigests") or ())
    except ImageNotFound:
        return ()


def _held_layers(client: docker.APIClient) -> list[tuple[Digest, ...]]:
    found = []
    for image in client.images():
        with contextlib.suppress(ImageNotFound):
            layers = client.inspect_image(image["Id"])["RootFS"].get("Layers") or ()
            found.append(tuple(Digest(each) for each in layers))
    return found


def _free(client: docker.APIClient) -> int | None:
    root = Path(client.info().get("DockerRootDir") or "/nowhere")
    return shutil.disk_usage(root).free if root.is_dir() else None


def _remove(client: docker.APIClient, image: Digest) -> bool:
    try:
        if client.inspect_image(image).get("RepoTags"):
            return True  # somebody gave it a name: it is theirs now
        client.remove_image(image)
    except ImageNotFound:
        return True
    except APIError:
        return False
    return True


def _read(lines: Iterable[dict[str, Any]], take: Callable[[dict[str, Any]], None]) -> None:
    """Read an engine's progress to its end, where the SDK closes its connection."""
    error = ""
    for line in lines:
        error = error or str(line.get("error") or "")
        take(line)
    if error:
        raise ImageMissing(error.strip())
