"""The routing table's control-socket end: takes its user's commands, and keeps it over restarts.

The table is this proxy's alone. Where a machine's requests go is for the machine's user to say: one
that spread through the network would let whoever writes it send everybody's requests anywhere. What
is meant for everybody goes into the service's definition, which its owner signs.
"""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import structlog
import trio
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from overlay.control import ControlConnection
from overlay.errors import InvalidName, MyxoError
from overlay.identity import Identity
from overlay.names import ServiceName
from overlay.revision import Revision, SignedRevision
from overlay.spec import ServiceSpec
from proxy.ranking.routing_table import (
    BALANCING,
    MAX_RECORDS,
    MAX_TARGETS,
    RouteInvalid,
    RoutingRecord,
    RoutingTable,
    Update,
    routing_record,
)

MAX_BEHIND = 1000
"""Changes that a follower may be behind by; one that reads more slowly is cut off."""

MAX_FILE_BYTES = 64 * 1024 * 1024

_Host = Annotated[str, StringConstraints(max_length=300)]

log = structlog.get_logger()


class RoutingCommand(BaseModel):
    """One line of a client that wants `rtable`.

    Attributes:
        do: what; `follow` answers with a line for each change until the client leaves.
        hosts, weights: of `set`; without weights all hosts are equal.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    do: Literal["set", "unset", "clear", "list", "updates", "flush", "follow", "info"]
    service: Annotated[str, StringConstraints(max_length=64)] = ""
    hosts: tuple[_Host, ...] = Field((), max_length=MAX_TARGETS)
    weights: tuple[float, ...] | None = Field(None, max_length=MAX_TARGETS)


class _Stored(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    service: str
    hosts: tuple[str, ...]
    weights: tuple[float, ...]


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    routes: tuple[_Stored, ...] = Field((), max_length=MAX_RECORDS)


class RoutingDesk:
    """Serves commands on a routing table.

    Args:
        table: the table.
        path: where it is kept; None keeps it nowhere.
        port: the proxy's own, which must not be a target.
        changed: called with the service of each change.
        identity: of the proxy; signs what stands in for definitions.
    """

    def __init__(
        self,
        table: RoutingTable,
        path: Path | None,
        port: int,
        changed: Callable[[ServiceName], None],
        identity: Identity,
    ) -> None:
        self._table = table
        self._path = path
        self._port = port
        self._changed = changed
        self._identity = identity
        self._followers: set[trio.MemorySendChannel[Update]] = set()
        self._stand_ins: dict[ServiceName, SignedRevision] = {}
        self._load()
        table.told = self._told

    def stand_in(self, service: ServiceName) -> SignedRevision | None:
        """Return what is taken for the definition of a service that only the table knows."""
        if service not in self._table:
            return None
        found = self._stand_ins.get(service)
        if found is None:
            spec = ServiceSpec(process="exit 1", policy=BALANCING)
            found = SignedRevision.sign(self._identity, Revision(name=service, number=1, spec=spec))
            self._stand_ins[service] = found
        return found

    async def serve(self, connection: ControlConnection) -> None:
        """Be the `rtable` want of a control socket: a line for each line."""
        while (line := await connection.receive()) is not None:
            try:
                command = RoutingCommand.model_validate_json(line)
            except ValidationError as exc:
                error = exc.errors(include_url=False)[0]
                await connection.send({"error": f"{error['loc']}: {error['msg']}"})
                continue
            if command.do == "follow":
                await self._follow(connection)
                return
            await connection.send(self.answer(command))

    def answer(self, command: RoutingCommand) -> Mapping[str, Any]:
        """Do what is asked; return what to answer."""
        try:
            return self._do(command)
        except (InvalidName, RouteInvalid) as exc:
            return {"error": str(exc)}
        except OSError as exc:
            return {"error": f"the table holds, but {self._path} cannot be written: {exc.strerror}"}

    def _do(self, command: RoutingCommand) -> Mapping[str, Any]:
        match command.do:
            case "set":
                return self._put(command)
            case "unset" | "clear":
                return self._unset(command)
            case "updates":
                return {"updates": [update_as_json(u) for u in self._table.updates()]}
            case "flush":
                return {"flushed": self._table.flush()}
            case "info":
                return self._info()
        return {"records": [asdict(record) for record in self._table.records()]}

    def _put(self, command: RoutingCommand) -> Mapping[str, Any]:
        record = routing_record(command.service, command.hosts, command.weights)
        self._check_not_own(record)
        self._table.put(record, time.time())
        self._save()
        return {"record": asdict(record)}

    def _unset(self, command: RoutingCommand) -> Mapping[str, Any]:
        now = time.time()
        if command.do == "clear":
            count = self._table.clear(now)
        elif self._table.unset(ServiceName(command.service), now):
            count = 1
        else:
            raise RouteInvalid(f"the table has no service {command.service!r}")
        self._save()
        return {"unset": count}

    def _info(self) -> Mapping[str, Any]:
        return {
            "proxy": self._port,
            "services": len(self._table.records()),
            "targets": len(self._table.addresses()),
            "updates": len(self._table.updates()),
            "file": None if self._path is None else str(self._path),
        }

    async def _follow(self, connection: ControlConnection) -> None:
        send, receive = trio.open_memory_channel[Update](MAX_BEHIND)
        self._followers.add(send)
        try:
            await connection.send({"following": True})
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_pass_on, receive, connection, nursery.cancel_scope)
                await connection.receive()  # nothing is to come but the end
                nursery.cancel_scope.cancel()
        finally:
            self._followers.discard(send)
            send.close()

    def _told(self, update: Update) -> None:
        self._changed(update.service)
        if update.record is None:
            self._stand_ins.pop(update.service, None)
        for follower in list(self._followers):
            try:
                follower.send_nowait(update)
            except trio.WouldBlock:
                self._followers.discard(follower)
                follower.close()

    def _check_not_own(self, record: RoutingRecord) -> None:
        names = ("127.0.0.1", "localhost", "[::1]")
        own = [h for h in record.hosts if h in {f"{name}:{self._port}" for name in names}]
        if own:
            raise RouteInvalid(f"{own[0]} is this proxy itself; requests would go in a circle")

    def _load(self) -> None:
        if self._path is None or not self._path.exists():
            return
        try:
            with self._path.open("rb") as file:
                stored = _File.model_validate_json(file.read(MAX_FILE_BYTES))
            for one in stored.routes:
                self._table.put(routing_record(one.service, one.hosts, one.weights), time.time())
        except (OSError, ValidationError, MyxoError) as exc:
            log.warning("routing_table.unreadable", path=str(self._path), error=str(exc))
        self._table.flush()

    def _save(self) -> None:
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        written = self._path.with_suffix(".new")
        routes = [asdict(record) for record in self._table.records()]
        written.write_text(json.dumps({"routes": routes}, indent=1))
        written.replace(self._path)


def update_as_json(update: Update) -> dict[str, Any]:
    """Return a change as it is sent."""
    record = None if update.record is None else asdict(update.record)
    return {"at": update.at, "service": update.service, "record": record}


async def _pass_on(
    updates: trio.MemoryReceiveChannel[Update],
    connection: ControlConnection,
    scope: trio.CancelScope,
) -> None:
    async for update in updates:
        await connection.send(update_as_json(update))
    scope.cancel()
