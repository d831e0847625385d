"""The network that experiments run on, as the API sees it: load hosts, services, routing tables."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from bench.lab.errors import LabError
from myxo.rtable import Answer


class NotJoined(LabError):
    """The API is in no network, or not yet, so nothing can be said of what is in it."""


class LabNetwork(Protocol):
    """Knows what is in a network; every call may raise `NotJoined`."""

    @property
    def named(self) -> bool:
        """Whether the API is to be in a network at all."""
        ...

    async def hosts(self) -> Sequence[str]:
        """Return the names of the load hosts; empty where there are none."""
        ...

    async def services(self) -> Sequence[str]:
        """Return the names of the services that can be asked."""
        ...

    async def route(self, command: Mapping[str, Any]) -> Sequence[Answer]:
        """Do a command on the routing tables of the load hosts' proxies; be an `rtable.Ask`."""
        ...


class NoNetwork:
    """A `LabNetwork` for an API that was named none; the database is all that it knows."""

    named = False

    async def hosts(self) -> Sequence[str]:
        """See `LabNetwork`."""
        raise _not_named()

    async def services(self) -> Sequence[str]:
        """See `LabNetwork`."""
        raise _not_named()

    async def route(self, command: Mapping[str, Any]) -> Sequence[Answer]:
        """See `LabNetwork`."""
        del command
        raise _not_named()


def _not_named() -> NotJoined:
    return NotJoined(
        "this API is in no network; start it with --bootstrap MULTIADDR, or on a machine that is "
        "in one"
    )
