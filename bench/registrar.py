"""Adds and deletes services from within a benchmark, without a start of Python for each.

On hosts of the lab it runs as a process of its own, `python -m bench.registrar`, because a network
there can be joined only from there. It reads JSON lines: where to join, then
{"add": [[name, spec], …]} and {"delete": [name, …]}, with the key file of whose they are. It prints
a line for each, with what failed if something did.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import structlog
import trio

from bench.errors import NetworkFailed
from overlay.errors import MyxoError
from overlay.identity import Identity, load_or_create
from overlay.names import ServiceName, service_name
from overlay.node import Node, open_node
from overlay.records import Role
from overlay.registry_messages import REGISTRY_PROTOCOL, Add, Added
from overlay.revision import Revision, SignedRevision
from overlay.settings import NodeSettings
from overlay.spec import ServiceSpec

CALL_TIMEOUT_S = 10.0


class Registrar:
    """Adds and deletes services of one owner.

    Args:
        node: a member of the network.
        owner_key: the file of whose services they are.
    """

    def __init__(self, node: Node, owner_key: Path) -> None:
        self._node = node
        self._owner: Identity = load_or_create(owner_key)
        self._numbers: dict[ServiceName, int] = {}

    async def add(self, name: ServiceName, spec: ServiceSpec) -> None:
        """Add a revision of the service `name`.

        Raises:
            NetworkFailed: no registry took it.
        """
        await self._send(name, spec)

    async def delete(self, name: ServiceName) -> None:
        """Delete the service `name`; its instances are drained and removed.

        Raises:
            NetworkFailed: no registry took it.
        """
        await self._send(name, None)

    async def _send(self, name: ServiceName, spec: ServiceSpec | None) -> None:
        number = self._numbers.get(name, 0) + 1
        revision = Revision(name=name, number=number, spec=spec, created_at=time.time())
        request = Add(revision=SignedRevision.sign(self._owner, revision).signed)
        try:
            registry = await self._registry()
            await self._node.calls.call(
                registry, REGISTRY_PROTOCOL, request, Added, timeout_s=CALL_TIMEOUT_S
            )
        except (MyxoError, trio.TooSlowError) as exc:
            raise NetworkFailed(f"the registry did not take {name}: {exc}") from exc
        self._numbers[name] = number

    async def _registry(self) -> Any:
        with trio.fail_after(CALL_TIMEOUT_S):
            while not (peers := self._node.view.peers(Role.REGISTRY)):
                await self._node.changed()
        return peers[0].peer_id


def main() -> None:
    """Run until standard input ends."""
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    trio.run(_run)


async def _run() -> None:
    join = json.loads(await _line())
    settings = NodeSettings(
        bootstraps=(join["bootstrap"],),
        psk=join["psk"],
        state_dir=Path(join["state"]),
        ephemeral=True,
    )
    registrars: dict[str, Registrar] = {}
    async with open_node(settings, Role.CLIENT) as node:
        while line := await _line():
            order = json.loads(line)
            key = order["owner"]
            registrar = registrars.setdefault(key, Registrar(node, Path(key)))
            try:
                await _obey(registrar, order)
            except NetworkFailed as exc:
                print(json.dumps({"failed": str(exc)}), flush=True)
            else:
                print(json.dumps({"failed": ""}), flush=True)


async def _obey(registrar: Registrar, order: dict[str, Any]) -> None:
    for name, spec in order.get("add", ()):
        await registrar.add(service_name(name), ServiceSpec.model_validate(spec))
    for name in order.get("delete", ()):
        await registrar.delete(service_name(name))


async def _line() -> str:
    return await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True)


if __name__ == "__main__":
    main()
