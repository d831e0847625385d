"""The gateway's end of tunnels, over sockets without TLS."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio
import trio.testing
from prometheus_client import CollectorRegistry

from allocator.errors import InstanceGone
from allocator.instances.instances import Instances
from allocator.metrics import AllocatorMetrics
from allocator.rules.admission import Ledger, Limits, Policy
from allocator.serving.tunnels import TunnelDoor
from allocator.testing import FakeMachine, FakePublisher, FakeRuntime, open_fake_machine
from overlay.control import ControlConnection, serve_control
from overlay.http.connection import ServerConnection
from overlay.http.errors import BadRequest
from overlay.http.upstream import UpstreamConnection
from overlay.identity import Identity
from overlay.names import Digest, InstanceId, ServiceName
from overlay.onward import WANT, Led, Onward, end_of
from overlay.revision import Revision, SignedRevision
from overlay.spec import Image, ServiceSpec
from overlay.tunnel import FramedEnd, OnwardRefused, ask_gateway

OWNER = Identity.generate()
IMAGE = Image(reference="hello", config_digest=Digest("sha256:" + "0" * 64))
SPEC = ServiceSpec(image=IMAGE, idle_stop_s=1000, tunnel_idle_s=500)
HELLO = SignedRevision.sign(OWNER, Revision(name=ServiceName("hello"), number=1, spec=SPEC))


@dataclass
class Ground:
    """A door before one instance, and what came of each request for a tunnel."""

    machine: FakeMachine
    instances: Instances
    instance: InstanceId
    nursery: trio.Nursery
    proxy: Path | None = None
    outcomes: list[Exception | None] = field(default_factory=list)
    ended: trio.Event = field(default_factory=trio.Event)

    def load(self) -> int:
        return self.instances.use.load()[self.instance]

    async def ask(self, target: str, onward: str = "") -> FramedEnd:
        near, far = trio.testing.memory_stream_pair()
        self.nursery.start_soon(self._serve, ServerConnection(far))
        upstream = UpstreamConnection(near)
        return await ask_gateway(upstream, target.encode(), OWNER.peer_id, "tcp", 5.0, onward)

    async def _serve(self, client: ServerConnection) -> None:
        outcome: Exception | None = None
        try:
            head = await client.read_head()
            assert head is not None
            door = TunnelDoor(self.instances, lambda: self.proxy)
            await door.serve(client, head, OWNER.peer_id)
        except (InstanceGone, BadRequest) as exc:
            outcome = exc
            await client.respond(421, [], str(exc).encode())
        self.outcomes.append(outcome)
        self.ended.set()
        await client.aclose()


@pytest.fixture
async def ground() -> AsyncIterator[Ground]:
    async with ground_of() as made:
        yield made


@asynccontextmanager
async def ground_of() -> AsyncIterator[Ground]:
    async with open_fake_machine() as machine, trio.open_nursery() as nursery:
        instances = Instances(
            {"docker": FakeRuntime(machine)},
            Ledger(Limits(1000, 1000, 10)),
            Policy(open_network=False, allow_any=False, allowed=frozenset),
            FakePublisher(),
            AllocatorMetrics(CollectorRegistry()),
        )
        await nursery.start(instances.run)
        await instances.allocate(HELLO)
        (instance,) = machine.instances
        with trio.fail_after(20):
            yield Ground(machine, instances, instance, nursery)
        nursery.cancel_scope.cancel()


async def test_a_tunnel_counts_as_a_request_until_it_ends(ground: Ground) -> None:
    end = await ground.ask(f"tcp/{ground.instance}")
    assert ground.load() == 1
    await end.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    answer = await end.receive()
    assert answer is not None
    assert answer.startswith(b"HTTP/1.1 200")
    assert ground.load() == 1
    await end.cut()
    await ground.ended.wait()
    assert ground.load() == 0
    assert ground.outcomes == [None]


@pytest.mark.parametrize("target", ["sctp/i1", "tcp", "", "tcp/none-such", "udp/none-such"])
async def test_what_leads_nowhere_is_refused_before_the_protocol_changes(
    ground: Ground, target: str
) -> None:
    with pytest.raises(Exception, match=r"GET /tunnel|there is no instance"):
        await ground.ask(target)
    assert ground.load() == 0


async def test_an_instance_that_does_not_accept_is_gone(ground: Ground) -> None:
    ground.machine.instances[ground.instance].crash()
    with pytest.raises(Exception, match=r"cannot be reached|there is no instance|the instance"):
        await ground.ask(f"tcp/{ground.instance}")
    assert isinstance(ground.outcomes[0], InstanceGone)


# chains


@dataclass
class PlayedProxy:
    """Leads on for the gateway: answers every order with `led`, then speaks at `end`."""

    led: Led = field(default_factory=Led)
    orders: list[Onward] = field(default_factory=list)
    end: FramedEnd | None = None
    over: trio.Event = field(default_factory=trio.Event)

    async def serve(self, connection: ControlConnection) -> None:
        line = await connection.receive()
        assert line is not None
        self.orders.append(Onward.model_validate_json(line))
        await connection.send(self.led)
        self.end = end_of(connection)
        await self.over.wait()


@pytest.fixture
async def proxy(ground: Ground, tmp_path: Path) -> PlayedProxy:
    played = PlayedProxy()
    await ground.nursery.start(serve_control, tmp_path / "p", dict, {WANT: played.serve})
    ground.proxy = tmp_path / "p"
    return played


async def test_what_an_instance_says_goes_on_and_what_comes_from_there_goes_back(
    ground: Ground, proxy: PlayedProxy
) -> None:
    end = await ground.ask(f"tcp/{ground.instance}", "udp/next/tcp/last")
    assert end.leads_on
    caller, instance = ServiceName("hello"), ground.instance
    assert proxy.orders == [Onward(to="udp/next/tcp/last", caller=caller, instance=instance)]
    assert proxy.end is not None
    await end.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    said = await proxy.end.receive()
    assert said is not None
    assert said.startswith(b"HTTP/1.1 200")
    await proxy.end.send(b"last words")
    assert await end.receive() == b"last words"
    await proxy.end.cut()
    with pytest.raises(trio.BrokenResourceError):
        await end.receive()
    await ground.ended.wait()
    assert ground.load() == 0
    proxy.over.set()


async def test_what_cannot_follow_is_said_and_the_instance_let_go(
    ground: Ground, proxy: PlayedProxy
) -> None:
    proxy.led = Led(error="next runs nowhere")
    proxy.over.set()
    with pytest.raises(OnwardRefused, match="next runs nowhere"):
        await ground.ask(f"tcp/{ground.instance}", "udp/next")
    await ground.ended.wait()
    assert ground.load() == 0


async def test_without_a_proxy_that_leads_on_whoever_asks_does_so(
    ground: Ground, tmp_path: Path
) -> None:
    for proxy in (None, tmp_path / "gone"):
        ground.proxy = proxy
        end = await ground.ask(f"tcp/{ground.instance}", "udp/next")
        assert not end.leads_on
        await end.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await end.receive() or b"").startswith(b"HTTP/1.1 200")
        await end.cut()


@pytest.mark.parametrize("onward", ["udp/\u00fc", "udp/Next", "udp/" + "a" * 2048])
async def test_what_is_no_chain_is_refused(ground: Ground, proxy: PlayedProxy, onward: str) -> None:
    with pytest.raises(Exception, match="what follows in a chain"):
        await ground.ask(f"tcp/{ground.instance}", onward)
    assert proxy.orders == []
