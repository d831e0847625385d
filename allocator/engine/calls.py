"""What an engine is asked to do with one container; each function blocks and raises `APIError`."""

import docker
from docker.errors import APIError

from allocator.engine.client import say
from allocator.engine.networks import address_of
from allocator.runtime import LOG_TAIL_LINES, PostMortem, last_lines

_ENDED = frozenset({"exited", "dead"})
"""The states, in the engine's words, of a container that ran once."""

_GONE, _CONFLICT = 404, 409
"""The engine's answers where there is no container, and where it does not run."""


def start(client: docker.APIClient, name: str) -> str:
    """Start the container; return its address."""
    client.start(name)
    return address_of(client.inspect_container(name))


def pause(client: docker.APIClient, name: str) -> None:
    """Freeze the container; nothing happens if it is frozen already."""
    try:
        client.pause(name)
    except APIError as exc:
        if "already paused" not in say(exc):
            raise


def unpause(client: docker.APIClient, name: str) -> None:
    """Thaw the container; nothing happens if it is not frozen."""
    try:
        client.unpause(name)
    except APIError as exc:
        if "is not paused" not in say(exc):
            raise


def ask_to_end(client: docker.APIClient, name: str) -> None:
    """Send the container the signal that its image names for that; a frozen one is thawed by it."""
    try:
        config = client.inspect_container(name)["Config"]
        client.kill(name, signal=config.get("StopSignal") or "SIGTERM")
    except APIError as exc:
        _pass_over_ended(exc)


def kill(client: docker.APIClient, name: str) -> None:
    """End the container at once."""
    try:
        client.kill(name)
    except APIError as exc:
        _pass_over_ended(exc)


def _pass_over_ended(exc: APIError) -> None:
    """Raise again what is not for the reason that the container has ended, or is gone."""
    if exc.status_code not in {_GONE, _CONFLICT}:
        raise exc


def post_mortem(client: docker.APIClient, name: str) -> PostMortem:
    """Return how the container ended, and the end of its log."""
    state = client.inspect_container(name)["State"]
    text = client.logs(name, tail=LOG_TAIL_LINES).decode(errors="replace")
    ended = state.get("Status") in _ENDED
    return PostMortem(
        exit_code=int(state["ExitCode"]) if ended else None,
        oom_killed=bool(state.get("OOMKilled")),
        log=last_lines(text),
    )
