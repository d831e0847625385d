"""The engine that the environment names: how it is reached, and why it is not."""

import contextlib
import os
import socket
import threading
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import docker
import requests.exceptions
import trio
import urllib3.exceptions
from docker.constants import DEFAULT_UNIX_SOCKET
from docker.errors import APIError, DockerException, NotFound
from docker.utils import kwargs_from_env

from allocator.errors import RuntimeDown

CALL_TIMEOUT_S = 60

PING_TIMEOUT_S = 2.0
"""An engine that is being stopped closes its socket; under systemd the socket is there, mute."""

CUT = (requests.exceptions.RequestException, urllib3.exceptions.HTTPError, OSError)
"""What the SDK raises when the engine goes away."""


_CONFLICT = 409


def close_stream(stream: Any) -> None:
    """Close an event stream; the SDK alone leaves the socket of one that was cut open."""
    stream.close()
    stream._response.close()  # noqa: SLF001


def open_client() -> docker.APIClient:
    """Return a client of the engine, its API version negotiated; blocks.

    Raises:
        RuntimeDown: saying what to do.
    """
    try:
        _knock(os.environ.get("DOCKER_HOST") or DEFAULT_UNIX_SOCKET)
        return docker.APIClient(version="auto", timeout=CALL_TIMEOUT_S, **kwargs_from_env())
    except (OSError, DockerException) as exc:
        raise RuntimeDown(why_unreachable(exc)) from exc


class Closable(Protocol):
    """What is to be closed by whoever has it."""

    def close(self) -> None:
        """Close it."""
        ...


_T = TypeVar("_T", bound=Closable)


async def opened(open_one: Callable[[], _T], limiter: trio.CapacityLimiter) -> _T:
    """Return what `open_one` opens in a thread; what comes after a cancel is closed there."""
    lock = threading.Lock()
    came: list[_T] = []
    gone = False

    def work() -> _T:
        one = open_one()
        with lock:
            came.append(one)
            if gone:
                one.close()
        return one

    try:
        return await trio.to_thread.run_sync(work, limiter=limiter, abandon_on_cancel=True)
    except trio.Cancelled:
        with lock:
            gone = True
            for one in came:
                one.close()
        raise


def accepts_calls() -> bool:
    """Return whether the engine answers on a new connection; blocks."""
    try:
        _knock(os.environ.get("DOCKER_HOST") or DEFAULT_UNIX_SOCKET)
        client = docker.APIClient(timeout=PING_TIMEOUT_S, **kwargs_from_env())
        with contextlib.closing(client):
            return bool(client.ping())
    except (DockerException, *CUT):
        return False


def _knock(host: str) -> None:
    """Connect to a local engine's socket once: the SDK hides the reason when it cannot."""
    scheme, _, path = host.partition("://")
    if "unix" in scheme:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect("/" + path.lstrip("/"))


def why_unreachable(exc: Exception) -> str:
    """Return why the engine cannot be reached, and what to do."""
    match exc:
        case PermissionError():
            return (
                "this user may not talk to the Docker engine; run "
                "`sudo usermod -aG docker $USER`, then log in again"
            )
        case FileNotFoundError() | ConnectionRefusedError():
            return "no Docker engine answers here; install or start it, or set DOCKER_HOST"
        case _:
            return f"no Docker engine answers: {exc}"


def say(exc: BaseException) -> str:
    """Return the engine's own words on what went wrong."""
    return str(getattr(exc, "explanation", None) or exc)


def remove(client: docker.APIClient, name: str) -> None:
    """End a container and remove it, if it is there; blocks."""
    try:
        client.remove_container(name, force=True, v=True)
    except NotFound:
        return
    except APIError as exc:
        if exc.status_code != _CONFLICT:  # its removal is under way already
            raise
