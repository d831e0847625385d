"""From a configuration or a name to the image that a revision records."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from overlay.names import Digest
from overlay.spec import DEFAULT_PORT, Image
from registry.conf.docker import DockerConf
from registry.dockerfile import dockerfile, write_context
from registry.errors import BuildFailed, ConfInvalid, ImageNotFound

DOCKER_HUB = "Docker Hub"

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class LocalImage:
    """An image that the engine has.

    Attributes:
        config_digest: sha256 of its OCI config.
        repo_digests: `NAME@sha256:…` in the registries that it was pushed to or pulled from.
        platform: `os/architecture`.
        exposed: the TCP ports of its EXPOSE lines.
        size_bytes: as the engine counts it.
    """

    config_digest: Digest
    repo_digests: tuple[str, ...]
    platform: str
    exposed: tuple[int, ...]
    size_bytes: int | None = None


class ImageEngine(Protocol):
    """What is needed of a container engine; `registry.docker.Engine` is the real one."""

    async def image(self, reference: str) -> LocalImage | None:
        """Return an image that the engine has."""
        ...

    async def build(self, context: IO[bytes], tag: str, progress: Progress) -> None:
        """Build an image."""
        ...

    async def push(self, reference: str, progress: Progress) -> None:
        """Push an image."""
        ...

    async def pull(self, reference: str, progress: Progress) -> None:
        """Pull an image."""
        ...


async def build_image(
    engine: ImageEngine,
    conf: DockerConf,
    directory: Path,
    reference: str,
    *,
    port: int = DEFAULT_PORT,
    push: bool = True,
    progress: Progress,
) -> Image:
    """Build a configuration's image, push it where its name says, and return its identity.

    Args:
        engine: builds and pushes.
        conf: what to build.
        directory: where the sources of `conf.copies` are.
        reference: the image's name, `USER/REPOSITORY:TAG` or `HOST:PORT/REPOSITORY:TAG`.
        port: the port that the service listens on in its container.
        push: whether to push; a name without a registry never is.
        progress: is told each line of the engine's progress.

    Raises:
        ConfInvalid: a source cannot be copied.
        BuildFailed, PushFailed, EngineUnavailable: nothing was pushed.
    """
    if not conf.cmd and not conf.copies and not conf.run:
        raise ConfInvalid("DockerConf builds nothing: it has no Copy, no Run and no Cmd")
    text = dockerfile(conf, port)
    for line in text.splitlines():
        progress(f"Dockerfile: {line}")
    with tempfile.TemporaryFile() as archive:
        write_context(conf, directory, text, archive)
        archive.seek(0)
        await engine.build(archive, reference, progress)
    if push and registry_of(reference) is not None:
        await engine.push(reference, progress)
    built = await engine.image(reference)
    if built is None:
        raise BuildFailed(f"the engine built {reference} but does not have it")
    return _identity(built, reference, pushed=push)


async def stock_image(
    engine: ImageEngine, reference: str, progress: Progress
) -> tuple[Image, tuple[int, ...]]:
    """Return an existing image's identity and exposed ports, pulled if it is not here.

    Raises:
        ImageNotFound: it is neither here nor to be pulled.
        EngineUnavailable: no engine answers.
    """
    found = await engine.image(reference)
    if found is None:
        progress(f"{reference} is not here; pulling it")
        await engine.pull(reference, progress)
        found = await engine.image(reference)
    if found is None:
        raise ImageNotFound(f"the engine pulled {reference} but does not have it")
    return _identity(found, reference, pushed=True), found.exposed


def service_port(asked: int | None, exposed: tuple[int, ...]) -> int:
    """Return the port that a service listens on: as asked, else the single EXPOSE, else 8080."""
    if asked is not None:
        return asked
    return exposed[0] if len(exposed) == 1 else DEFAULT_PORT


def registry_of(reference: str) -> str | None:
    """Return the registry that an image's name is pushed to; None if the name has none.

    `host:port/…`, `host.domain/…` and `localhost/…` name their registry, `user/repository` is on
    Docker Hub, and a bare name belongs to nobody who could push it.
    """
    first, slash, _ = reference.partition("/")
    if not slash:
        return None
    return first if first == "localhost" or "." in first or ":" in first else DOCKER_HUB


def repository_of(reference: str) -> str:
    """Return an image's name without its tag or digest."""
    name = reference.partition("@")[0]
    head, slash, tail = name.rpartition("/")
    return head + slash + tail.partition(":")[0]


def _identity(found: LocalImage, reference: str, *, pushed: bool) -> Image:
    own = [d for d in found.repo_digests if repository_of(d) == repository_of(reference)]
    digests = own or list(found.repo_digests)
    return Image(
        reference=reference,
        config_digest=found.config_digest,
        repo_digest=digests[0] if pushed and digests else None,
        platforms=(found.platform,),
        size_bytes=found.size_bytes,
    )
