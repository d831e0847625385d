"""The container engine as `registry-cli` uses it: build, push, pull, look at images.

The Docker SDK blocks, so each call runs in a thread; nothing outside this module knows the SDK. The
engine is the one that the environment names (`DOCKER_HOST`, `DOCKER_TLS_VERIFY`,
`DOCKER_CERT_PATH`), and its stored logins are used for pushes and pulls.
"""

import os
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any, TypeVar

import docker
import docker.errors
import docker.utils
import requests
import trio

from overlay.names import Digest
from registry.errors import BuildFailed, EngineUnavailable, ImageNotFound, PushFailed
from registry.image import DOCKER_HUB, LocalImage, registry_of

ENGINE_TIMEOUT_S = 600.0
"""Of silence on a stream: a build step may say nothing for minutes."""

DEFAULT_HOST = "unix:///var/run/docker.sock"

T = TypeVar("T")
Progress = Callable[[str], None]


class Engine:
    """One container engine; nothing is asked of it before the first call."""

    def __init__(self) -> None:
        self._limiter = trio.CapacityLimiter(2)

    async def image(self, reference: str) -> LocalImage | None:
        """Return an image by name or digest, or None if the engine does not have it.

        Raises:
            EngineUnavailable: no engine answers.
        """
        return await self._run(lambda client: _inspect(client, reference))

    async def build(self, context: IO[bytes], tag: str, progress: Progress) -> None:
        """Build the archive `context` into the image `tag`.

        Raises:
            BuildFailed: with the step that failed.
            EngineUnavailable: no engine answers.
        """

        def build(client: Any) -> None:
            lines = client.build(
                fileobj=context, custom_context=True, tag=tag, rm=True, forcerm=True, decode=True
            )
            try:
                _follow(lines, progress, BuildFailed, f"the image {tag} could not be built")
            except BuildFailed as exc:
                raise BuildFailed(f"{exc}{_hint(str(exc))}") from exc

        await self._run(build)

    async def push(self, reference: str, progress: Progress) -> None:
        """Push an image to the registry that its name says.

        Raises:
            PushFailed: with the registry's answer and what to do.
            EngineUnavailable: no engine answers.
        """
        where = registry_of(reference) or DOCKER_HUB
        login = "docker login" if where == DOCKER_HUB else f"docker login {where}"

        def push(client: Any) -> None:
            try:
                lines = client.push(reference, stream=True, decode=True)
                _follow(lines, progress, PushFailed, f"{reference} could not be pushed to {where}")
            except (PushFailed, docker.errors.APIError) as exc:
                raise PushFailed(
                    f"{_explanation(exc)}; nothing was registered. Log in with `{login}` and see "
                    "that the repository "
                    "exists and can be reached, or keep the image on this machine with --no-push"
                ) from exc

        await self._run(push)

    async def pull(self, reference: str, progress: Progress) -> None:
        """Pull an image.

        Raises:
            ImageNotFound: with the registry's answer.
            EngineUnavailable: no engine answers.
        """

        def pull(client: Any) -> None:
            repository, tag = docker.utils.parse_repository_tag(reference)
            try:
                lines = client.pull(repository, tag=tag or "latest", stream=True, decode=True)
                _follow(lines, progress, ImageNotFound, f"{reference} could not be pulled")
            except (ImageNotFound, docker.errors.APIError) as exc:
                raise ImageNotFound(
                    f"the image {reference} is not on this machine and could not be pulled: "
                    f"{_explanation(exc)}{REACHING}"
                ) from exc

        await self._run(pull)

    async def _run(self, work: Callable[[Any], T]) -> T:
        def work_with_client() -> T:
            with _client() as client:
                return work(client)

        return await trio.to_thread.run_sync(
            work_with_client, limiter=self._limiter, abandon_on_cancel=True
        )


REACHING = (
    ". See that its name is right and that this machine reaches its registry, or take an image "
    "that `docker images` lists"
)


def _hint(failure: str) -> str:
    """Return what to do about a build that failed, where its first step says so."""
    found = re.search(r"\(at: Step \d+/\d+ : FROM (\S+)\)$", failure)
    if found is None:
        return ""
    return f"; {found[1]}, which DockerConf.From names, is not on this machine{REACHING}"


@contextmanager
def _client() -> Iterator[Any]:
    client = None
    try:
        arguments = docker.utils.kwargs_from_env()
        _knock(arguments.get("base_url") or DEFAULT_HOST)
        client = docker.APIClient(version="auto", timeout=ENGINE_TIMEOUT_S, **arguments)
        yield client
    except (docker.errors.DockerException, requests.RequestException) as exc:
        raise EngineUnavailable(_engine_trouble(exc)) from exc
    finally:
        if client is not None:
            client.close()


def _knock(host: str) -> None:
    """Connect to the engine's Unix socket, if it is one, where the SDK would leak a failed one."""
    if not host.startswith("unix://"):
        return
    path = "/" + host.removeprefix("unix://").lstrip("/")
    with socket.socket(socket.AF_UNIX) as sock:
        try:
            sock.connect(path)
        except PermissionError as exc:
            raise EngineUnavailable(
                f"the Docker engine at {host} lets only members of its group in: run `sudo "
                "usermod -aG docker $USER` and log in again"
            ) from exc
        except OSError as exc:
            raise EngineUnavailable(_no_answer(host, exc.strerror or str(exc))) from exc


def _engine_trouble(exc: Exception) -> str:
    host = os.environ.get("DOCKER_HOST") or DEFAULT_HOST
    if isinstance(exc, docker.errors.APIError):
        return f"the Docker engine at {host} refused: {_explanation(exc)}"
    return _no_answer(host, _first_line(exc))


def _no_answer(host: str, reason: str) -> str:
    return (
        f"no Docker engine answers at {host} ({reason}): start it, name another with DOCKER_HOST, "
        "or add the service with --process"
    )


def _inspect(client: Any, reference: str) -> LocalImage | None:
    try:
        found = client.inspect_image(reference)
    except docker.errors.ImageNotFound:
        return None
    except docker.errors.APIError as exc:
        if exc.is_client_error():
            raise ImageNotFound(f"{reference!r} is no image's name: {_explanation(exc)}") from exc
        raise
    ports = (found.get("Config") or {}).get("ExposedPorts") or {}
    return LocalImage(
        config_digest=Digest(found["Id"]),
        repo_digests=tuple(found.get("RepoDigests") or ()),
        platform=f"{found['Os']}/{found['Architecture']}",
        exposed=tuple(
            int(port.partition("/")[0]) for port in ports if port.partition("/")[2] in {"", "tcp"}
        ),
        size_bytes=found.get("Size"),
    )


def _follow(
    lines: Iterator[dict[str, Any]], progress: Progress, failure: type[Exception], what: str
) -> None:
    """Report each line of an engine's progress stream; raise `failure` if it tells of an error.

    An error is the stream's last line; the stream is read to its end all the same, because the SDK
    closes its connection only there.
    """
    last = ""
    error = None
    for line in lines:
        error = error or line.get("error")
        text = str(line.get("stream") or _status(line)).strip()
        for part in text.splitlines():
            progress(part)
            last = part if part.startswith("Step ") else last
    if error:
        raise failure(f"{what}: {str(error).strip()}" + (f" (at: {last})" if last else ""))


def _status(line: dict[str, Any]) -> str:
    status = line.get("status", "")
    # The bars of each layer come many times a second; their beginnings and ends tell enough.
    if not status or line.get("progressDetail"):
        return ""
    return f"{line['id']}: {status}" if "id" in line else status


def _explanation(exc: Exception) -> str:
    return str(getattr(exc, "explanation", None) or _first_line(exc))


def _first_line(exc: Exception) -> str:
    return (str(exc).splitlines() or [type(exc).__name__])[0][:300]
