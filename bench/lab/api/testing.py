"""For tests: a network without machines, and the API served within a program."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import trio

from bench.lab.api.application import make_app
from bench.lab.api.network import LabNetwork
from bench.lab.api.serving import run
from bench.lab.api.settings import ApiSettings
from bench.lab.errors import NoSuchHost
from myxo.rtable import Answer


class InMemoryNetwork:
    """A `LabNetwork` whose load hosts share one routing table."""

    named = True

    def __init__(self, hosts: Sequence[str] = (), services: Sequence[str] = ()) -> None:
        self.there = list(hosts)
        self._services = list(services)
        self._table: dict[str, dict[str, Any]] = {}

    async def hosts(self) -> Sequence[str]:
        """See `LabNetwork`."""
        return sorted(self.there)

    async def services(self) -> Sequence[str]:
        """See `LabNetwork`."""
        return list(self._services)

    async def route(self, command: Mapping[str, Any]) -> Sequence[Answer]:
        """See `LabNetwork`."""
        if not self.there:
            raise NoSuchHost("there is no load host")
        return [self._answer(command) | {"proxy": f"proxy of {host}"} for host in self.there]

    def _answer(self, command: Mapping[str, Any]) -> dict[str, Any]:
        match command["do"]:
            case "set" if command["weights"] and len(command["weights"]) != len(command["hosts"]):
                return {"error": "there must be as many weights as hosts"}
            case "set":
                record = {key: command[key] for key in ("service", "hosts")}
                record["weights"] = command["weights"] or [1.0] * len(command["hosts"])
                self._table[command["service"]] = record
                return {"record": record}
            case "unset":
                return {"unset": int(self._table.pop(command["service"], None) is not None)}
            case "clear":
                count = len(self._table)
                self._table.clear()
                return {"unset": count}
            case _:
                return {"records": list(self._table.values())}


@asynccontextmanager
async def open_api(settings: ApiSettings, network: LabNetwork) -> AsyncIterator[str]:
    """Serve the API until the end of the block; yield its URL."""

    @asynccontextmanager
    async def open_network(_: ApiSettings) -> AsyncIterator[LabNetwork]:
        yield network

    ready = trio.Event()
    ports: list[int] = []

    def told(port: int) -> None:
        ports.append(port)
        ready.set()

    async def serve() -> None:
        host, port = settings.address()
        await run(make_app(settings, open_network), host, port, ready=told)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        await ready.wait()
        yield f"http://127.0.0.1:{ports[0]}"
        nursery.cancel_scope.cancel()
