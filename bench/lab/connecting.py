"""Load hosts for programs and notebooks that are no trio programs.

    from bench.lab.connecting import connect

    with connect("/ip4/10.0.0.1/tcp/4001/p2p/12D3Koo…", psk="…") as g:
        g.spawn("squeezenet", num=3).request(n=100, ia=("expovariate", 1)).wait()

What is in the network runs in a thread of its own, so that it goes on while the program computes.
"""

import atexit
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, ExitStack
from pathlib import Path
from typing import Any, Self, TypeVar

from anyio.from_thread import BlockingPortal, start_blocking_portal

from bench.lab.client_group import ClientGroup
from bench.lab.errors import LabError
from bench.lab.hosts.fleet import Fleet
from bench.lab.hosts.held_rates import Tell
from bench.lab.hosts.joining import open_fleet, open_own_host
from bench.lab.hosts.messages import Answered
from bench.lab.hosts.settings import CommandSettings, HostSettings
from bench.lab.load_hosts import ClientStatus, Spawn
from bench.lab.loading.csv_sink import open_csv
from bench.lab.request_trace import TraceSink
from bench.lab.routing import RoutingTable
from bench.lab.shell.tables import client_rows, info_rows
from overlay.errors import alone

T = TypeVar("T")


class Lab:
    """Load hosts, until it is closed; made by `connect`.

    Attributes:
        fleet: the hosts, for trio programs; `call` runs what it offers.
        rtbl: the routing tables of the hosts' proxies.
        show: prints what there is.
    """

    def __init__(self, opened: AbstractAsyncContextManager[Fleet], stack: ExitStack) -> None:
        self._stack = stack
        self._portal: BlockingPortal = stack.enter_context(start_blocking_portal("trio"))
        self.fleet = stack.enter_context(self._portal.wrap_async_context_manager(opened))
        self.rtbl = RoutingTable(lambda command: self.call(self.fleet.route, command))
        self.show = Show(self)
        atexit.register(self.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave the network; hosts go on with what they do. A second time it does nothing."""
        atexit.unregister(self.close)
        self._stack.close()

    def call(self, function: Callable[..., Coroutine[Any, Any, T]], *given: Any) -> T:
        """Return what an async function returns; Ctrl-C ends it."""
        future = self.start(function, *given)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def start(self, function: Callable[..., Coroutine[Any, Any, T]], *given: Any) -> "Future[T]":
        """Begin what an async function does; return what comes of it."""
        return self._portal.start_task_soon(function, *given)

    def hosts(self, pattern: str = ".*") -> list[str]:
        """Return the names of the load hosts that a regular expression matches as a whole.

        Raises:
            NoSuchHost: none.
        """
        return self.call(self.fleet.hosts, pattern)

    def info(self, pattern: str = ".*") -> list[ClientStatus]:
        """Return how each client on these hosts is."""
        return self.call(self.fleet.clients, pattern)

    def clients(self, *ids: str) -> ClientGroup:
        """Return a group of the clients with these ids, or of all clients that there are.

        Raises:
            LabError: one is not there.
        """
        there = [status.client for status in self.info()]
        gone = set(ids).difference(there)
        if gone:
            raise LabError(f"there is no client {min(gone)}; `show.clients()` lists them")
        return self._group(list(ids) or there, None, ".*")

    def spawn(
        self,
        service: str,
        num: int = 1,
        client: str | None = None,
        parameters: dict[str, Any] | None = None,
        hosts: str = ".*",
        **more: Any,
    ) -> ClientGroup:
        """Start clients, each on the host that has the fewest by then; return them as a group.

        Args:
            service: a service's name, or a URL.
            num: how many in all.
            client: the name of a client of one's own that is deployed.
            parameters: for it; without one: method, path and kwargs of each request.
            hosts: a regular expression on host names.
            more: further fields of `Spawn`: exp_id, seed, arrival.
        """
        what = Spawn(service, num, client, parameters or {}, **more)
        return self._group(self.call(self.fleet.spawn_spread, hosts, what), what, hosts)

    def request(
        self,
        service: str,
        client: str | None = None,
        parameters: dict[str, Any] | None = None,
        hosts: str = ".*",
    ) -> Answered:
        """Have one host send one request, and return what was answered."""
        what = Spawn(service, app=client, parameters=parameters or {})
        return self.call(self.fleet.ask, hosts, what)

    def _group(self, ids: Sequence[str], what: Spawn | None, pattern: str) -> ClientGroup:
        return ClientGroup(self, ids, what, pattern)


class Show:
    """Prints what there is."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab

    def hosts(self) -> None:
        """Print the load hosts."""
        print("\n".join(self._lab.hosts()))

    def clients(self) -> None:
        """Print each client."""
        print("\n".join(client_rows(self._lab.info())))

    def info(self) -> None:
        """Print what the clients of each service on each host do together."""
        print("\n".join(info_rows(self._lab.info())))


def connect(
    *bootstraps: str,
    psk: str | None = None,
    standalone: bool = False,
    traces: Path | str | None = None,
    tell: Tell = lambda _, __: None,
    config: Path | None = None,
    **settings: Any,
) -> Lab:
    """Be in a network and command its load hosts, until `close` or the end of the block.

    Args:
        bootstraps: addresses of bootstrap nodes; else those of `P2P_BOOTSTRAPS`, of the settings
            file, or of the network that this machine is in.
        psk: the network's passphrase; else that of `P2P_PSK`, and so on.
        standalone: use no network but one load host inside this process.
        traces: a CSV file for a trace of each request.
        tell: is told of hosts that are lost, back or failed: an event's name, and what happened.
        config: the settings file, if not the usual one.
        settings: further ones, see `bench.lab.hosts.settings`.

    Raises:
        SettingsInvalid, PeerUnreachable, PassphraseRefused: the network cannot be joined.
    """
    given = {"bootstraps": bootstraps, "psk": psk} | settings
    stack = ExitStack()
    try:
        sink: TraceSink | None = None
        if traces is not None:
            sink = stack.enter_context(open_csv(Path(traces)))
        if standalone:
            opened = open_own_host(HostSettings.load(given, config), sink, tell)
        else:
            chosen = CommandSettings.load(given, config)
            opened = open_fleet(chosen, sink, tell, timeout_s=chosen.timeout_s)
        return Lab(opened, stack)
    except BaseExceptionGroup as group:
        stack.close()
        error = alone(group)
        raise error from error.__cause__
    except BaseException:
        stack.close()
        raise
