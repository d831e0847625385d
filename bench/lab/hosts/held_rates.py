"""Rates that hold while load hosts come and go.

Where a host is lost, the hosts that were told a rate together with it send its part too
(`rates.py`), and so do clients that were told rates by their ids (`client_rates.py`); when it
returns they give it back. Where nobody can, it is said which rate is gone.
"""

from collections.abc import Callable, Collection, Mapping, Sequence

import structlog
import trio

from bench.lab.errors import LoadFailed
from bench.lab.hosts.client_orders import ClientOrders, sent_by
from bench.lab.hosts.client_rates import host_of
from bench.lab.hosts.messages import Done, SetRate
from bench.lab.hosts.network import HostNetwork, Run
from bench.lab.hosts.orders import Orders
from bench.lab.hosts.rates import Rates, Target

Tell = Callable[[str, str], None]
"""Takes an event: its name, and what happened, in words."""

log = structlog.get_logger()


class HeldRates:
    """The rates that hosts and clients were told; whoever changes them holds `setting`.

    Args:
        network: knows which hosts are there.
        orders: the way to them.
        tell: takes events.

    Attributes:
        rates: of a service's clients on a host.
        by_id: of clients by their ids.
    """

    def __init__(self, network: HostNetwork, orders: Orders, tell: Tell) -> None:
        self.rates = Rates()
        self.by_id = ClientOrders(orders)
        self.setting = trio.Lock()
        self._network = network
        self._orders = orders
        self._tell = tell
        self._lost: dict[str, tuple[Run, list[Target]]] = {}

    @property
    def lost(self) -> Collection[str]:
        """The hosts that are gone and have not come back."""
        return self._lost.keys()

    def forget(
        self, hosts: Sequence[str], service: str, exp_id: str | None, *, closed: bool = False
    ) -> None:
        """Take in that these hosts' clients of a service are to send nothing, or have ended."""
        self.rates.forget(hosts, service, exp_id)
        clients = self.by_id.rates.of(hosts, service, exp_id)
        if closed:
            self.by_id.closed(clients)
        else:
            self.by_id.forget(clients)

    async def tell_clients(self, clients: Sequence[str], rate: float) -> Mapping[str, str]:
        """Have each of these clients send `rate`; return those that do not, and why."""
        there = self._network.hosts()
        refused = {
            client: f"{host_of(client)}: the host is gone, or has started anew"
            for client in clients
            if host_of(client) not in there
        }
        self.by_id.forget(refused)
        self.by_id.tell([client for client in clients if client not in refused], rate)
        refused |= {c: why for c, why in (await self.settle()).items() if c in clients}
        self.by_id.forget(refused)
        return refused

    async def settle(self) -> Mapping[str, str]:
        """Tell clients what is due from each by now; return those that do not do it, and why."""
        return await self.by_id.settle(self._network.hosts().keys(), self._taken())

    async def watch(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """See to it that rates hold while hosts come and go, until cancelled."""
        there = dict(self._network.hosts())
        task_status.started()
        while True:
            now = dict(self._network.hosts())
            if now == there:
                await self._network.changed()
                continue
            async with self.setting:
                await self._adjust(there, now)
            there = now

    async def _adjust(self, before: Mapping[str, Run], now: Mapping[str, Run]) -> None:
        """Bring the hosts that are there in step with what is due from them now."""
        was_due = self.rates.due(before)
        changed: dict[Target, float] = {}
        for host, run in before.items():
            if host not in now:
                self._lost[host] = run, [target for target in was_due if target[0] == host]
        for host, run in now.items():
            lost_run, targets = self._lost.pop(host, (run, []))
            if before.get(host, lost_run) != run:
                self._restarted(host, others=now.keys() - {host})
            elif host not in before and (targets or self.by_id.rates.told_on(host)):
                changed |= dict.fromkeys(targets, 0.0)
                self._say("load_host.back", f"{host} is back")
        due = self.rates.due(now)
        changed = {t: 0.0 for t in changed if t not in due} | {
            t: rate for t, rate in due.items() if t in changed or was_due.get(t) != rate
        }
        for host in before.keys() - now.keys():
            lost = _lost(host, self._lost[host][1], was_due, changed)
            self._say_with_clients("load_host.lost", lost, host, now.keys())
        await self._set(changed)
        for client, why in (await self.settle()).items():
            self._say("load_host.failed", f"{client} does not send what is due: {why}")

    def _restarted(self, host: str, others: Collection[str]) -> None:
        text = f"{host} has started anew and has no clients"
        self._say_with_clients("load_host.restarted", text, host, others)
        self.rates.restarted(host)
        self.by_id.restarted(host)

    async def _set(self, rates: Mapping[Target, float]) -> None:
        for (host, service, exp_id), rate in rates.items():
            order = SetRate(service=service, exp_id=exp_id, rate=rate)
            try:
                await self._orders.give(host, order, Done)
            except LoadFailed as exc:  # if it is lost too, there is another change to see to
                self._say("load_host.failed", f"{host} does not send {rate:g}/s: {exc}")
            else:
                self.by_id.overruled(self.by_id.rates.of([host], service, exp_id))

    def _taken(self) -> set[str]:
        """Return the clients that send a part of what was told to all of a service on a host."""
        told = self.rates.due(self._network.hosts())
        rates = self.by_id.rates
        return {c for host, service, exp_id in told for c in rates.of([host], service, exp_id)}

    def _say_with_clients(self, event: str, text: str, host: str, there: Collection[str]) -> None:
        """Tell an event, and what becomes of the rates of a lost host's clients."""
        self._say(event, "; ".join([text, *self.by_id.words(host, there, self._taken())]))

    def _say(self, event: str, text: str) -> None:
        log.warning(event, what=text)
        self._tell(event, text)


def _lost(
    host: str,
    targets: Sequence[Target],
    was_due: Mapping[Target, float],
    changed: Mapping[Target, float],
) -> str:
    """Return in words what is lost with a host, and who does it now."""
    parts = [f"{host} is lost"]
    for target in targets:
        _, service, exp_id = target
        others = [h for h, s, e in changed if (s, e) == (service, exp_id) and h != host]
        parts.append(f"its {was_due[target]:g} requests/s to {service} are {sent_by(others)}")
    return "; ".join(parts)
