"""How a configuration says that its service's image is built: `DockerConf`."""

from dataclasses import dataclass
from typing import Any

from registry.conf.place import Field, Place, flag, text
from registry.conf.values import image_reference

DEFAULT_FROM = "ubuntu:16.04"


@dataclass(frozen=True, slots=True)
class DockerConf:
    """How the service's image is built.

    Attributes:
        base: the image that it begins with.
        copies: (source, destination): the source below `--dir`, the destination below `/app`.
        run: shell commands that prepare the image.
        cmd: the shell command that starts the service.
        proxy_client_mode: accepted as older files have it; Myxo's services need no own proxy.
    """

    base: str = DEFAULT_FROM
    copies: tuple[tuple[str, str], ...] = ()
    run: tuple[str, ...] = ()
    cmd: str = ""
    proxy_client_mode: bool = False


def _copies(place: Place) -> tuple[tuple[str, str], ...]:
    allowed = 'a list of [source below --dir, destination below /app], such as [["server", "."]]'
    pairs = []
    for item in place.items(allowed):
        parts = item.items(allowed)
        if len(parts) != 2:  # noqa: PLR2004
            item.refuse(allowed)
        source, destination = (text(allowed)(part) for part in parts)
        pairs.append((source, destination))
    return tuple(pairs)


def _commands(place: Place) -> tuple[str, ...]:
    allowed = 'a list of shell commands, such as ["apt-get update"]'
    return tuple(text(allowed, 16384)(item) for item in place.items(allowed))


def docker(place: Place) -> DockerConf:
    """Return how the image is built."""
    known = place.fields(DOCKER_FIELDS)
    return DockerConf(
        base=known.get("From", DEFAULT_FROM),
        copies=known.get("Copy", ()),
        run=known.get("Run", ()),
        cmd=known.get("Cmd", ""),
        proxy_client_mode=known.get("ProxyClientMode", False),
    )


def _cmd(place: Place) -> str:
    allowed = 'a shell command, such as "./server $SERVICE_PORT"'
    return "" if place.value == "" else text(allowed, 16384)(place)


DOCKER_FIELDS: dict[str, Field[Any]] = {
    "From": Field(image_reference),
    "Copy": Field(_copies),
    "Run": Field(_commands),
    "Cmd": Field(_cmd),
    "ProxyClientMode": Field(flag),
}
