"""A load host: the clients of one machine, and what lets others command them."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import structlog
import trio

from allocator.rules.allowed import allowed_keys
from bench.lab.errors import BadInput
from bench.lab.hosts.apps import Unpacked
from bench.lab.hosts.crew import Take, open_crew
from bench.lab.hosts.desk import serve_station
from bench.lab.hosts.machine import open_machine
from bench.lab.hosts.once import Once
from bench.lab.hosts.recorder import open_recorder
from bench.lab.hosts.settings import HostSettings
from bench.lab.hosts.station import Station
from bench.lab.loading.csv_sink import open_csv
from bench.lab.request_trace import TraceSink
from myxo.rtable import ask_proxies
from overlay.advertising import system_hostname
from overlay.node import Node, open_node
from overlay.notify import notify
from overlay.records import Role
from overlay.settings import split_address

log = structlog.get_logger()


async def run(settings: HostSettings, *, ready: Callable[[Node], None] | None = None) -> None:
    """Be a load host until cancelled.

    Args:
        settings: the daemon's.
        ready: called once others can command it.

    Raises:
        BadInput: another load host has its name.
    """
    name = settings.hostname or system_hostname()
    async with open_station(settings, name) as station:

        def prepare(node: Node) -> None:
            serve_station(node.reach, station, partial(allowed_keys, settings.admin))
            node.status = station.status

        async with open_node(settings, Role.LOAD, prepare=prepare) as node:
            _refuse_name_taken(node, name)
            log.info("load_host.ready", host=name, peer=node.peer_id, traces=settings.trace_logging)
            if ready is not None:
                ready(node)
            notify("READY=1")
            await trio.sleep_forever()


@asynccontextmanager
async def open_station(settings: HostSettings, name: str) -> AsyncIterator[Station]:
    """Yield what does orders on this machine; its clients end with the block.

    Raises:
        BadInput: traces cannot go where they are to go.
    """
    lab = settings.state_dir / "lab"
    _, port = split_address(settings.proxy, "127.0.0.1")
    async with AsyncExitStack() as stack:
        local = await stack.enter_async_context(_open_traces(settings, lab, name))
        crew = await stack.enter_async_context(open_crew(name, settings.proxy))
        nursery = await stack.enter_async_context(trio.open_nursery())
        yield Station(
            Once(nursery),
            crew,
            await stack.enter_async_context(open_machine(name)),
            Unpacked(lab / "unpacked"),
            ask_proxies(settings.state_dir, port),
            local,
            streams=settings.trace_logging == "stream",
        )
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def _open_traces(settings: HostSettings, lab: Path, name: str) -> AsyncIterator[Take | None]:
    """Yield what keeps traces on this machine; None if they do not stay here."""
    async with AsyncExitStack() as stack:
        sink: TraceSink
        match settings.trace_logging:
            case "file":
                path = settings.trace_file or lab / f"traces-{name}.csv"
                path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                sink = stack.enter_context(open_csv(path, fresh=False))
            case "sql":
                # Not every load host needs databases, which are slow to import.
                from bench.lab.experiments.settings import chosen_database  # noqa: PLC0415
                from bench.lab.experiments.store import SqlTraceSink, open_store  # noqa: PLC0415

                url = chosen_database(state_dir=settings.state_dir)
                store = await stack.enter_async_context(open_store(url))
                sink = SqlTraceSink(store)
            case "stream" | "off":
                yield None
                return
        recorder = await stack.enter_async_context(open_recorder(sink))
        yield recorder.take


def _refuse_name_taken(node: Node, name: str) -> None:
    others = [p for p in node.view.peers(Role.LOAD) if p.record.host == name]
    if others:
        raise BadInput(
            f"the network has a load host {name} already; give this one another --hostname"
        )
