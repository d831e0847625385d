"""A proxy's tunnels, and machines whose gateways a test plays in memory."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import cast

import pytest
import trio
import trio.testing
from prometheus_client import CollectorRegistry

from overlay.calls import Caller
from overlay.definitions import Definitions, UnknownService
from overlay.http.connection import ServerConnection
from overlay.http.gateway import ACCEPT_LINE
from overlay.http.head import Field, get
from overlay.identity import Identity
from overlay.leases import Hello
from overlay.names import InstanceId, PeerId, ServiceName
from overlay.passphrase import network_keys
from overlay.records import (
    InstanceRecord,
    InstanceState,
    PeerRecord,
    Role,
    Version,
    sign_record,
)
from overlay.revision import Revision, SignedRevision
from overlay.spec import RateLimit, ServiceSpec
from overlay.testing import empty_view, measure, meet
from overlay.tls import open_tls
from overlay.tunnel import ONWARD, UPGRADE, Carries, FramedEnd
from overlay.view import View
from proxy.backend.roads import Roads
from proxy.choosing.chooser import Chooser
from proxy.choosing.crowd import Crowd
from proxy.choosing.starting import Starter
from proxy.guard.ejecting import Ejector
from proxy.guard.guards import Guards
from proxy.guard.limiting import Limiter, Rates
from proxy.guard.shares import Shares
from proxy.guard.traffic import Traffics
from proxy.layer4.tunnels import Tunnels
from proxy.ranking.upstreams import Upstreams
from proxy.request.forwarding import Forwarder
from proxy.telemetry.decisions import Decisions
from proxy.telemetry.metrics import ProxyMetrics
from proxy.testing import PlayedCounter

ALICE, PROXY, NEAR, FAR = (Identity.from_seed(bytes([n]) * 32) for n in range(4))
CIRCUIT = f"/ip4/192.0.2.7/tcp/4001/p2p/{PROXY.peer_id}/p2p-circuit"
NOW = 1_700_000_000.0


class KnownDefinitions:
    """What tunnels use of definitions, held in memory."""

    def __init__(self) -> None:
        self.known: dict[ServiceName, SignedRevision] = {}

    def get(self, name: ServiceName) -> SignedRevision | None:
        return self.known.get(name)

    async def resolve(self, name: ServiceName, client: str = "") -> SignedRevision:
        del client
        await trio.lowlevel.checkpoint()
        raise UnknownService(name, list(self.known))


@dataclass
class Asked:
    """What a gateway was asked, and its end of the tunnel; None where it refused."""

    owner: PeerId
    target: str
    onward: str
    end: FramedEnd | None


@dataclass
class Ground:
    """Tunnels, and machines that only the overlay leads to.

    Attributes:
        refusals: by machine, the status and text of its gateway's answers.
        leads_on: machines whose gateway leads chains on.
        asked: what gateways were asked, in order.
    """

    view: View
    nursery: trio.Nursery
    definitions: KnownDefinitions = field(default_factory=KnownDefinitions)
    refusals: dict[PeerId, tuple[int, str]] = field(default_factory=dict)
    leads_on: set[PeerId] = field(default_factory=set)
    asked: list[Asked] = field(default_factory=list)
    forwarder: Forwarder = field(init=False)
    tunnels: Tunnels = field(init=False)

    def define(self, name: str, spec: ServiceSpec) -> None:
        revision = Revision(name=ServiceName(name), number=1, spec=spec)
        self.definitions.known[ServiceName(name)] = SignedRevision.sign(ALICE, revision)

    def run(self, name: str, owner: Identity, *, rtt_s: float = 0.001) -> None:
        """Have a machine be there, so far away, and run an instance of a service."""
        version = Version(epoch=NOW, counter=0)
        peer = PeerRecord(version=version, role=Role.ALLOCATOR, host="h", addresses=(CIRCUIT,))
        self.view.apply(sign_record(owner, peer), NOW)
        meet(self.view, owner.peer_id, NOW)
        measure(self.view, owner.peer_id, rtt_s)
        record = InstanceRecord(
            version=version,
            id=InstanceId(f"{name}-{owner.peer_id[-4:]}".lower()),
            service=ServiceName(name),
            revision=1,
            state=InstanceState.READY,
            address="",
            concurrency=5,
        )
        self.view.apply(sign_record(owner, record), NOW)

    async def carry(self, owner: PeerId) -> trio.abc.Stream:
        near, far = trio.testing.memory_stream_pair()
        await far.send_all(ACCEPT_LINE)
        self.nursery.start_soon(self._serve, owner, ServerConnection(far))
        return near

    async def _serve(self, owner: PeerId, client: ServerConnection) -> None:
        head = await client.read_head()
        if head is None:
            return
        onward = (get(head.headers, ONWARD.lower()) or b"").decode()
        asked = Asked(owner, head.target.decode(), onward, None)
        self.asked.append(asked)
        if owner in self.refusals:
            status, text = self.refusals[owner]
            await client.respond(status, [], text.encode())
            return
        led: list[Field] = [(ONWARD, b"led")] if onward and owner in self.leads_on else []
        carries: Carries = "udp" if "/udp/" in asked.target else "tcp"
        switched = await client.switch([*UPGRADE, *led])
        asked.end = FramedEnd(*switched, PROXY.peer_id, carries)


@pytest.fixture
def ground_of() -> Callable[[], object]:
    """`async with ground_of() as ground:` is a proxy that has heard of nobody."""

    @asynccontextmanager
    async def made() -> AsyncIterator[Ground]:
        async with trio.open_nursery() as nursery:
            view = empty_view(PROXY, "here")
            ground = Ground(view, nursery)
            roads = Roads(
                view,
                open_tls(network_keys("secret"), PROXY.peer_id),
                nursery,
                Hello(proxy_port=4200),
                ground.carry,
                lambda *_: None,
            )
            ground.forwarder = _forwarder(ground, roads)
            ground.tunnels = Tunnels(ground.forwarder, roads)
            yield ground
            nursery.cancel_scope.cancel()

    return made


def _forwarder(ground: Ground, roads: Roads) -> Forwarder:
    view, random, crowd, decisions = ground.view, Random(1), Crowd(), Decisions()
    upstreams = Upstreams(view, random)
    calls = cast("Caller", None)  # nothing can be asked for a start: no machine has room
    starter = Starter(view, calls, ground.nursery, lambda _: None, random, crowd.news)
    shares = Shares(PlayedCounter(RateLimit(per_s=1, burst=1)).ask, lambda: 1)
    guards = Guards(
        Traffics(),
        Ejector(view, upstreams, trio.current_time),
        Limiter(Rates(shares, trio.current_time)),
        ProxyMetrics(CollectorRegistry()),
    )
    return Forwarder(
        view,
        cast("Definitions", ground.definitions),
        roads,
        Chooser(view, upstreams, starter, crowd, decisions),
        decisions,
        guards,
        machine_names=frozenset(),
    )
