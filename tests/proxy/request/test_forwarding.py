import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import cast

import pytest
import trio
import trio.testing
from prometheus_client import CollectorRegistry

from overlay.balancing import Balancing
from overlay.definitions import Definitions, RegistryUnreachable, UnknownService
from overlay.errors import PeerUnreachable
from overlay.http.connection import ServerConnection
from overlay.http.errors import BadRequest, ClientGone, ResponseCut
from overlay.http.h2_server import ServerStream, serve_http2
from overlay.http.head import CHUNKED, NO_BODY, Field, RequestHead, parse_request_head
from overlay.http.testing import Wire
from overlay.http.tls_stream import TlsStream
from overlay.http.transport import transport
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
from overlay.testing import empty_view, meet
from overlay.tls import PeerTls, open_tls
from overlay.view import View
from proxy.backend.roads import Roads
from proxy.choosing.chooser import Chooser
from proxy.choosing.crowd import Crowd
from proxy.choosing.starting import Flight, Started, Starter
from proxy.control.routing_desk import RoutingCommand, RoutingDesk
from proxy.errors import NothingFeasible, RequestRefused, RevisionOutdated
from proxy.frontend.clients import refuse
from proxy.guard.ejecting import Ejector
from proxy.guard.guards import Guards
from proxy.guard.limiting import Limiter, Rates
from proxy.guard.recent import LEAST
from proxy.guard.shares import Shares
from proxy.guard.traffic import Traffic, Traffics
from proxy.ranking.limits import RttLimits
from proxy.ranking.placement import Site
from proxy.ranking.routing_table import RoutingTable
from proxy.ranking.selection import Candidate
from proxy.ranking.upstreams import Upstreams
from proxy.request.attempts import MAX_ATTEMPTS
from proxy.request.forwarding import Forwarder
from proxy.route.caller import Caller, Origin
from proxy.route.chains import MAX_VISITS
from proxy.telemetry.decisions import Decisions, Plan, asked_of
from proxy.telemetry.metrics import ProxyMetrics
from proxy.telemetry.timing import Timing
from proxy.testing import PlayedAllocator, PlayedCounter, played_allocator

HELLO = ServiceName("hello")
ALICE, PROXY, HERE, THERE = (Identity.from_seed(bytes([n]) * 32) for n in range(4))
KEYS = network_keys("secret")
LOCAL = Origin("127.0.0.1", trusted=True)
NOW = 1_700_000_000.0

Instance = Callable[[Wire], Awaitable[None]]


class KnownDefinitions:
    """What `Forwarder` uses of definitions, held in memory."""

    def __init__(self) -> None:
        self.known: dict[str, SignedRevision] = {}
        self.reachable = True

    def define(self, spec: ServiceSpec, name: str = HELLO, number: int = 1) -> None:
        revision = Revision(name=ServiceName(name), number=number, spec=spec)
        self.known[name] = SignedRevision.sign(ALICE, revision)

    def get(self, name: ServiceName) -> SignedRevision | None:
        return self.known.get(name)

    async def changed(self) -> None:
        await trio.sleep_forever()

    async def resolve(self, name: ServiceName, client: str = "") -> SignedRevision:
        del client
        await trio.lowlevel.checkpoint()
        if not self.reachable:
            raise RegistryUnreachable(name)
        raise UnknownService(name, [HELLO])


class ScriptedStarter(Starter):
    """Starts what the test says; by default nothing can be started."""

    def __init__(self, nursery: trio.Nursery, landed: Callable[[ServiceName], None]) -> None:
        self.calls: list[frozenset[tuple[PeerId, InstanceId]]] = []
        self.whys: list[str] = []
        self.script: list[Callable[[], Started]] = []
        self.held: trio.Event | None = None
        self.flights: dict[str, Flight] = {}
        self._run = nursery
        self._tell = landed

    def begin(
        self,
        revision: SignedRevision,
        limits: RttLimits,
        *,
        why: str,
        exclude: frozenset[tuple[PeerId, InstanceId]] = frozenset(),
        request_id: str = "",
        accept: Callable[[Site], bool] | None = None,
        keep: bool = False,
    ) -> Flight:
        del request_id, accept, limits, keep
        name = revision.revision.name
        if name not in self.flights:
            self.calls.append(exclude)
            self.whys.append(why)
            self.flights[name] = Flight(name, Plan(why))
            self._run.start_soon(self._land, self.flights[name])
        return self.flights[name]

    async def _land(self, flight: Flight) -> None:
        if self.held is not None:
            await self.held.wait()
        try:
            if not self.script:
                raise NothingFeasible(flight.service, ["host: all memory is taken"])
            flight.outcome = self.script.pop(0)()
        except RequestRefused as exc:
            flight.outcome = exc
        del self.flights[flight.service]
        flight.done.set()
        self._tell(flight.service)


@dataclass
class Ground:
    """A forwarder between real clients and real instances of this machine."""

    nursery: trio.Nursery
    view: View
    allocator: PlayedAllocator
    forwarder: Forwarder
    roads: Roads
    definitions: KnownDefinitions
    starter: ScriptedStarter
    upstreams: Upstreams
    chooser: Chooser
    guards: Guards
    counter: PlayedCounter
    crowd: Crowd
    client: Wire
    desk: RoutingDesk
    version: int = 0
    origin: Origin = LOCAL
    address: tuple[str, int] = ("", 0)
    requests: dict[str, list[bytes]] = field(default_factory=dict)

    async def listen(self, instance: Instance) -> int:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")

        async def serve(stream: trio.SocketStream) -> None:
            try:
                await instance(Wire(stream))
            except (EOFError, trio.BrokenResourceError):
                pass
            finally:
                await trio.aclose_forcefully(stream)

        self.nursery.start_soon(trio.serve_listeners, serve, [listener])
        return cast("int", listener.socket.getsockname()[1])

    async def run_instance(
        self, name: str, instance: Instance | None = None, *, concurrency: int = 5
    ) -> None:
        """Serve `instance`, by default one that says its name, and publish it as local."""
        port = await self.listen(instance or self.saying(name))
        self.publish(name, f"127.0.0.1:{port}", concurrency=concurrency)

    def saying(self, name: str) -> Instance:
        async def serve(wire: Wire) -> None:
            while True:
                head = await wire.head()
                self.requests.setdefault(name, []).append(head)
                if found := re.search(rb"(?i)content-length: (\d+)", head):
                    await wire.exactly(int(found.group(1)))
                await wire.send(answer(name.encode()))

        return serve

    def publish(
        self,
        name: str,
        address: str,
        *,
        owner: Identity = HERE,
        concurrency: int = 5,
        revision: int = 1,
        withdrawn: bool = False,
    ) -> None:
        self.version += 1
        self.allocator.addresses[InstanceId(name)] = address
        record = InstanceRecord(
            version=Version(epoch=NOW, counter=self.version),
            id=InstanceId(name),
            service=HELLO,
            revision=revision,
            state=InstanceState.READY,
            address=address,
            concurrency=concurrency,
            withdrawn=withdrawn,
        )
        self.view.apply(sign_record(owner, record), NOW)

    async def ask(self, request: str, body: bytes = b"") -> tuple[int, dict[str, str], bytes]:
        """Send one request to the proxy and return status, fields and body of its answer."""
        await self.client.send(request.replace("\n", "\r\n").encode() + b"\r\n\r\n" + body)
        return await self.answered()

    async def alone(self, request: str) -> int:
        """Send one request on a connection of its own and return the status of its answer."""
        wire = Wire(await trio.open_tcp_stream(*self.address))
        try:
            await wire.send(request.replace("\n", "\r\n").encode() + b"\r\n\r\n")
            return int((await wire.head()).split()[1])
        finally:
            await wire.aclose()

    def known(self) -> list[Candidate]:
        """Return what the proxy knows of each instance."""
        return self.upstreams.candidates(self.view.instances(HELLO), trio.current_time())

    async def answered(self) -> tuple[int, dict[str, str], bytes]:
        head = (await self.client.head()).decode().split("\r\n")
        pairs = (line.split(": ", 1) for line in head[1:] if line)
        fields = {name.lower(): value for name, value in pairs}
        length = int(fields.get("content-length", "0"))
        return int(head[0].split()[1]), fields, await self.client.exactly(length)

    async def call_from_within(self, path: str) -> tuple[int, str]:
        """Do what an instance does that calls a service: over a connection of its own."""
        async with await trio.open_tcp_stream(*self.address) as stream:
            wire = Wire(stream)
            await wire.send(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            head = (await wire.head()).decode()
            found = re.search(r"(?i)content-length: (\d+)", head)
            body = await wire.exactly(int(found[1])) if found else b""
        return int(head.split()[1]), body.decode()

    async def get(self, path: str = "/hello/x") -> tuple[int, dict[str, str], bytes]:
        return await self.ask(f"GET {path} HTTP/1.1\nHost: localhost")

    async def post(self, body: bytes = b"data") -> tuple[int, dict[str, str], bytes]:
        head = f"POST /hello/x HTTP/1.1\nHost: localhost\nContent-Length: {len(body)}"
        return await self.ask(head, body)

    async def run_target(self, name: str) -> str:
        """Serve something outside of the network that says its name; return its `host:port`."""
        return f"127.0.0.1:{await self.listen(self.saying(name))}"

    def rtable(self, do: str, service: str = HELLO, *hosts: str, weights: object = None) -> None:
        command = {"do": do, "service": service, "hosts": hosts, "weights": weights}
        said = self.desk.answer(RoutingCommand.model_validate(command))
        assert "error" not in said, said


def answer(body: bytes, *fields: str) -> bytes:
    lines = ["HTTP/1.1 200 OK", f"Content-Length: {len(body)}", *fields, "", ""]
    return "\r\n".join(lines).encode() + body


async def serve_client(
    forwarder: Forwarder, stream: trio.SocketStream, origin: Callable[[], Origin]
) -> None:
    """Do what the proxy does with one connection; a bug ends the test."""
    client = ServerConnection(stream)
    try:
        while (head := await client.read_head()) is not None:
            try:
                await forwarder.forward(client, head, lambda *_: None, origin())
            except RequestRefused as exc:
                await refuse(client, head, exc)
    except BadRequest as exc:
        await client.refuse(exc)
    except (ClientGone, ResponseCut):
        await client.abort()
    finally:
        await client.aclose()


def take_peer(view: View, peer: Identity, **fields: object) -> None:
    record = PeerRecord.model_validate(
        {"version": Version(epoch=NOW, counter=0), "role": Role.ALLOCATOR, "host": "h", **fields}
    )
    view.apply(sign_record(peer, record), NOW)
    meet(view, peer.peer_id, NOW)


async def carried_nowhere(peer: PeerId) -> trio.abc.Stream:
    raise PeerUnreachable(f"no overlay leads to {peer} here")


@pytest.fixture
async def ground(tmp_path: Path, nursery: trio.Nursery) -> AsyncIterator[Ground]:
    async with ground_of(tmp_path, nursery) as made:
        yield made


@asynccontextmanager
async def ground_of(tmp_path: Path, nursery: trio.Nursery) -> AsyncIterator[Ground]:
    with trio.fail_after(20):
        async with played_allocator(tmp_path / "s") as allocator:
            view = empty_view(PROXY, "here")
            take_peer(view, PROXY, role=Role.PROXY, machine="here")
            take_peer(view, HERE, machine="here", control=str(tmp_path / "s"))
            welcomed = trio.Event()
            tls = open_tls(KEYS, PROXY.peer_id)
            roads = Roads(
                view,
                tls,
                nursery,
                Hello(proxy_port=4200),
                carried_nowhere,
                lambda *_: welcomed.set(),
            )
            await roads.follow()
            await welcomed.wait()
            routes = RoutingTable()
            definitions, upstreams = KnownDefinitions(), Upstreams(view, Random(1), routes)
            crowd, decisions = Crowd(), Decisions()
            starter = ScriptedStarter(nursery, crowd.news)
            definitions.define(ServiceSpec(process="serve"))
            chooser = Chooser(view, upstreams, starter, crowd, decisions)
            counter = PlayedCounter(RateLimit(per_s=1, burst=1))
            shares = Shares(counter.ask, lambda: 1)
            guards = Guards(
                Traffics(),
                Ejector(view, upstreams, trio.current_time),
                Limiter(Rates(shares, trio.current_time)),
                ProxyMetrics(CollectorRegistry()),
            )
            desk = RoutingDesk(routes, None, 4200, crowd.news, PROXY)
            forwarder = Forwarder(
                view,
                cast("Definitions", definitions),
                roads,
                chooser,
                decisions,
                guards,
                machine_names=frozenset(),
                stand_in=desk.stand_in,
            )
            (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")

            async def serve(stream: trio.SocketStream) -> None:
                await serve_client(forwarder, stream, lambda: made.origin)

            nursery.start_soon(trio.serve_listeners, serve, [listener])
            address = listener.socket.getsockname()
            stream = await trio.open_tcp_stream(*address)
            made = Ground(
                nursery,
                view,
                allocator,
                forwarder,
                roads,
                definitions,
                starter,
                upstreams,
                chooser,
                guards,
                counter,
                crowd,
                Wire(stream),
                desk,
                address=address,
            )
            yield made
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                await stream.aclose()
                await roads.aclose()


async def closing(wire: Wire) -> None:
    """An instance that takes a request and closes without an answer."""
    await wire.head()
    await wire.aclose()


async def closed_port() -> str:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    await listener.aclose()
    return f"127.0.0.1:{port}"


async def test_a_request_is_answered_by_an_instance_and_shows_where_the_time_went(
    ground: Ground,
) -> None:
    await ground.run_instance("i1")
    status, fields, body = await ground.get("/hello/a?b")
    assert (status, body) == (200, b"i1")
    assert re.fullmatch(
        r"lookup;dur=[\d.]+, select;dur=[\d.]+, forward;dur=[\d.]+", fields["server-timing"]
    )
    assert ground.requests["i1"][0].startswith(b"GET /a?b HTTP/1.1\r\n")


async def test_a_clients_own_myxo_fields_are_stripped_and_the_others_kept(ground: Ground) -> None:
    await ground.run_instance("i1")
    request = "GET /hello HTTP/1.1\nHost: localhost\nMyxo-Instance: other\nmyxo-x: y\nX-Kept: z"
    await ground.ask(request)
    (head,) = ground.requests["i1"]
    assert b"myxo-" not in head.lower()
    assert b"X-Kept: z\r\n" in head


async def test_a_chain_is_told_of_an_instance_and_never_of_a_client(ground: Ground) -> None:
    await ground.run_instance("i1")
    request = "GET /hello HTTP/1.1\nHost: localhost\nX-Myxo-Chain: made, up"
    await ground.ask(request)
    ground.origin = replace(LOCAL, caller=Caller(ServiceName("web"), InstanceId("w1")))
    await ground.get()
    await ground.ask(request)
    from_outside, first, handed_on = ground.requests["i1"]
    assert b"x-myxo-chain" not in from_outside.lower()
    assert b"X-Myxo-Chain: web\r\n" in first
    assert b"X-Myxo-Chain: made, up, web\r\n" in handed_on
    assert handed_on.lower().count(b"x-myxo-chain") == 1


async def test_a_circle_of_services_is_answered_508_with_its_names(ground: Ground) -> None:
    await ground.run_instance("i1")
    ground.origin = replace(LOCAL, caller=Caller(HELLO, InstanceId("i1")))
    request = "GET /hello HTTP/1.1\nHost: localhost\nX-Myxo-Chain: hello, hello, hello"
    status, _, body = await ground.ask(request)
    assert status == 508
    assert b"hello > hello > hello > hello > hello" in body
    assert "i1" not in ground.requests


async def test_an_instance_that_calls_its_own_service_without_end_is_stopped(
    ground: Ground,
) -> None:
    """It hands nothing on, and answers with what it was answered."""

    async def serve(wire: Wire) -> None:
        ground.origin = replace(LOCAL, caller=Caller(HELLO, InstanceId("i1")))
        while True:
            ground.requests.setdefault("i1", []).append(await wire.head())
            status, body = await ground.call_from_within("/hello")
            await wire.send(answer(f"{status} {body}".encode()))

    await ground.run_instance("i1", serve, concurrency=50)
    status, _, body = await ground.get()
    assert status == 200
    assert b"508" in body
    assert len(ground.requests["i1"]) == MAX_VISITS


async def test_an_instances_myxo_fields_do_not_reach_the_client(ground: Ground) -> None:
    async def serve(wire: Wire) -> None:
        await wire.head()
        await wire.send(answer(b"", "Myxo-Refused: gone", "Myxo-In-Flight: 9", "X-Kept: y"))

    await ground.run_instance("i1", serve)
    status, fields, _ = await ground.get()
    assert status == 200
    assert fields["x-kept"] == "y"
    assert not [name for name in fields if name.startswith("myxo-")]


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_refused_connection_leads_to_another_instance(ground: Ground, method: str) -> None:
    ground.publish("dead", await closed_port())
    await ground.run_instance("i2")
    for _ in range(4):
        status, _, body = await (ground.get() if method == "GET" else ground.post())
        assert (status, body) == (200, b"i2")


async def test_a_get_whose_connection_is_lost_before_the_answer_is_sent_to_another_instance(
    ground: Ground,
) -> None:
    await ground.run_instance("bad", closing)
    await ground.run_instance("i2")
    for _ in range(4):
        assert (await ground.get())[2] == b"i2"


async def test_a_get_whose_small_answer_breaks_off_is_sent_to_another_instance(
    ground: Ground,
) -> None:
    async def half(wire: Wire) -> None:
        await wire.head()
        await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")

    await ground.run_instance("bad", half)
    await ground.run_instance("i2")
    for _ in range(4):
        assert (await ground.get())[2] == b"i2"


async def test_a_post_that_may_have_been_processed_is_not_sent_twice(ground: Ground) -> None:
    await ground.run_instance("bad", closing)
    await ground.run_instance("i2", concurrency=1)
    outcomes = {(await ground.post())[0] for _ in range(1)}
    if outcomes == {200}:  # the good one was drawn first: make it the busy one
        for instance in ground.view.instances(HELLO):
            if instance.record.id == "i2":
                ground.upstreams.begin(instance)
        outcomes = {(await ground.post())[0]}
    assert outcomes == {502}
    assert len(ground.requests.get("i2", [])) <= 1


async def test_the_502_says_which_instance_failed_and_why_it_was_not_repeated(
    ground: Ground,
) -> None:
    await ground.run_instance("bad", closing)
    status, _, body = await ground.post()
    assert status == 502
    assert b"hello (instance bad)" in body
    assert b"idempotent" in body


async def test_an_idempotent_services_post_is_sent_again(ground: Ground) -> None:
    ground.definitions.define(ServiceSpec(process="serve", idempotent=True))
    await ground.run_instance("bad", closing)
    await ground.run_instance("i2")
    for _ in range(4):
        assert (await ground.post())[2] == b"i2"


async def test_a_body_too_large_to_remember_is_not_sent_twice(ground: Ground) -> None:
    async def read_then_close(wire: Wire) -> None:
        await wire.exactly(100_000)
        await wire.aclose()

    ground.definitions.define(ServiceSpec(process="serve", idempotent=True))
    await ground.run_instance("bad", read_then_close)
    status, _, body = await ground.post(b"x" * 200_000)
    assert status == 502
    assert b"too large to be sent again" in body


async def test_a_kept_connection_that_the_instance_closed_is_no_failure_of_the_instance(
    ground: Ground,
) -> None:
    async def one_each(wire: Wire) -> None:
        await wire.head()
        await wire.send(answer(b"i1"))
        await wire.head()
        await wire.aclose()

    await ground.run_instance("i1", one_each)
    for _ in range(4):
        assert (await ground.get())[2] == b"i1"


async def test_nothing_but_failures_is_a_502_after_a_bound_of_attempts(ground: Ground) -> None:
    for number in range(MAX_ATTEMPTS + 1):
        await ground.run_instance(f"bad{number}", closing)
    status, _, body = await ground.get()
    assert status == 502
    assert f"failed {MAX_ATTEMPTS} times".encode() in body


async def test_without_an_instance_one_is_started_in_the_request(ground: Ground) -> None:
    port = await ground.listen(ground.saying("new"))

    def started() -> Started:
        ground.publish("new", f"127.0.0.1:{port}")
        return Started(HERE.peer_id, InstanceId("new"), {"create": 0.25, "start": 0.5})

    ground.starter.script.append(started)
    status, fields, body = await ground.get()
    assert (status, body) == (200, b"new")
    assert "create;dur=250.000, start;dur=500.000" in fields["server-timing"]


async def test_full_instances_lead_to_a_start(ground: Ground) -> None:
    await ground.run_instance("full", concurrency=1)
    (full,) = ground.view.instances(HELLO)
    ground.upstreams.begin(full)
    port = await ground.listen(ground.saying("new"))

    def started() -> Started:
        ground.publish("new", f"127.0.0.1:{port}")
        return Started(HERE.peer_id, InstanceId("new"), {})

    ground.starter.script.append(started)
    assert (await ground.get())[2] == b"new"
    assert len(ground.starter.calls) == 1


async def test_while_another_is_started_requests_go_to_what_gets_room_first(
    ground: Ground,
) -> None:
    await ground.run_instance("full", concurrency=1)
    (full,) = ground.view.instances(HELLO)
    ground.upstreams.begin(full)
    ground.starter.held = trio.Event()  # the start does not end before the request has
    got: list[bytes] = []

    async def ask() -> None:
        got.append((await ground.get())[2])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        while not ground.starter.calls:
            await trio.testing.wait_all_tasks_blocked(0.001)
        ground.chooser.done(full, 0.001)
    assert got == [b"full"]
    ground.starter.held.set()


async def test_an_instance_that_breaks_off_one_request_serves_the_next_if_its_machine_vouches(
    ground: Ground,
) -> None:
    async def fragile(wire: Wire) -> None:
        while b"/breaks" not in await wire.head():
            await wire.send(answer(b"well"))

    await ground.run_instance("only", fragile)
    assert await ground.alone("POST /hello/breaks HTTP/1.1\nHost: localhost") == 502
    ground.starter.script.append(lambda: Started(HERE.peer_id, InstanceId("only"), {}))
    assert (await ground.get())[2] == b"well"
    assert (await ground.get())[2] == b"well"
    assert len(ground.starter.calls) == 1, "its machine was asked once"


async def test_who_waits_for_a_start_takes_the_first_instance_that_another_machine_has(
    ground: Ground,
) -> None:
    async def serve(wire: Wire) -> None:
        await wire.head()
        await wire.send(answer(b"elsewhere"))

    await open_gateway(ground, serve)
    ground.starter.held = trio.Event()  # its own start has not had its turn
    got: list[bytes] = []

    async def ask() -> None:
        got.append((await ground.get())[2])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        while not ground.crowd.count:
            await trio.lowlevel.checkpoint()
        (flight,) = ground.starter.flights.values()
        ground.publish("elsewhere", "", owner=THERE)
        ground.crowd.look(ground.view.instances)
    assert got == [b"elsewhere"]
    assert flight.scope.cancel_called, "nobody waits for it any more"
    ground.starter.held.set()


async def test_the_instance_that_a_start_brings_is_taken_with_the_times_that_it_tells(
    ground: Ground,
) -> None:
    """Its record may be here before the answer to the question for it."""
    port = await ground.listen(ground.saying("own"))
    ground.starter.script.append(lambda: Started(HERE.peer_id, InstanceId("own"), {"start": 0.1}))
    ground.starter.held = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ground.client.send, b"GET /hello/x HTTP/1.1\r\nHost: localhost\r\n\r\n")
        while not ground.crowd.count:
            await trio.lowlevel.checkpoint()
    (flight,) = ground.starter.flights.values()
    flight.plan.asked = HERE.peer_id
    ground.publish("own", f"127.0.0.1:{port}")
    ground.crowd.look(ground.view.instances)
    await trio.testing.wait_all_tasks_blocked()
    ground.starter.held.set()
    _, fields, body = await ground.answered()
    assert body == b"own"
    assert "start;dur=100.000" in fields["server-timing"]


async def test_a_short_wait_for_room_starts_nothing(ground: Ground) -> None:
    await ground.run_instance("full", concurrency=1)
    (full,) = ground.view.instances(HELLO)
    ground.upstreams.begin(full)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ground.get)
        while not ground.crowd.count:
            await trio.lowlevel.checkpoint()
        ground.chooser.done(full, 0.001)
    assert ground.starter.calls == []


async def test_a_burst_over_the_concurrency_starts_no_more_than_is_needed(
    ground: Ground,
) -> None:
    """Eleven requests over ten places make one start, and none of them fails."""
    go = trio.Event()

    async def slow(wire: Wire) -> None:
        while True:
            await wire.head()
            await go.wait()
            await wire.send(answer(b"ok"))

    await ground.run_instance("i1", slow, concurrency=10)
    port = await ground.listen(slow)

    def started() -> Started:
        ground.publish("i2", f"127.0.0.1:{port}", concurrency=10)
        return Started(HERE.peer_id, InstanceId("i2"), {})

    ground.starter.script += [started, started]
    statuses: list[int] = []

    async def ask() -> None:
        statuses.append(await ground.alone("GET /hello/x HTTP/1.1\nHost: localhost"))

    async with trio.open_nursery() as nursery:
        for _ in range(11):
            nursery.start_soon(ask)
        while sum(c.in_flight for c in ground.known()) < 11:
            await trio.testing.wait_all_tasks_blocked(0.001)
        go.set()
    assert statuses == [200] * 11
    assert len(ground.starter.calls) == 1
    assert ground.starter.whys == ["all instances are full"]


async def test_over_the_soft_limit_requests_are_served_while_a_better_instance_is_started(
    ground: Ground,
) -> None:
    async def serve(wire: Wire) -> None:
        while True:
            await wire.head()
            await wire.send(answer(b"far"))

    await open_gateway(ground, serve)
    ground.publish("far", "", owner=THERE)
    ground.definitions.define(ServiceSpec(process="serve", soft_rtt_ms=5))
    port = await ground.listen(ground.saying("near"))

    def started() -> Started:
        ground.publish("near", f"127.0.0.1:{port}")
        return Started(HERE.peer_id, InstanceId("near"), {})

    ground.starter.script.append(started)
    ground.starter.held = trio.Event()
    before = [(await ground.get())[2]]
    while not ground.starter.calls:  # a breach must last before anything is started
        await trio.sleep(0.05)
        before.append((await ground.get())[2])
    before.append((await ground.get())[2])
    assert set(before) == {b"far"}
    ground.starter.held.set()
    while b"near" not in before:
        before.append((await ground.get())[2])
    assert (await ground.get())[2] == b"near"
    assert ground.starter.whys == ["all instances are over the soft RTT limit"]


async def test_a_client_that_asks_is_told_what_was_decided_and_others_are_not(
    ground: Ground,
) -> None:
    await ground.run_instance("i1")
    _, fields, _ = await ground.get()
    assert not [name for name in fields if name.startswith("x-")]
    _, fields, _ = await ground.ask(
        "GET /hello HTTP/1.1\nHost: localhost\nX-Myxo-Explain: 1\nX-Request-Id: mine"
    )
    assert (fields["x-request-id"], fields["x-myxo-instance"]) == ("mine", "i1")
    assert (fields["x-myxo-host"], fields["x-myxo-road"]) == ("h", "direct")
    _, fields, _ = await ground.ask("GET /hello HTTP/1.1\nHost: localhost\nX-Myxo-Explain: 1")
    assert fields["x-request-id"] not in {"", "mine"}


async def test_full_instances_serve_where_none_can_be_started(ground: Ground) -> None:
    await ground.run_instance("full", concurrency=1)
    (full,) = ground.view.instances(HELLO)
    ground.upstreams.begin(full)
    assert (await ground.get())[2] == b"full"


async def test_where_nothing_runs_and_nothing_starts_the_reasons_are_told(ground: Ground) -> None:
    status, _, body = await ground.get()
    assert status == 503
    assert b"host: all memory is taken" in body


async def test_a_newer_revision_that_an_allocator_heard_of_first_is_started(
    ground: Ground,
) -> None:
    port = await ground.listen(ground.saying("new"))

    def outdated() -> Started:
        ground.definitions.define(ServiceSpec(process="serve"), number=2)
        raise RevisionOutdated("host: revision 2 is the newest")

    def started() -> Started:
        ground.publish("new", f"127.0.0.1:{port}", revision=2)
        return Started(HERE.peer_id, InstanceId("new"), {})

    ground.starter.script += [outdated, started]
    assert (await ground.get())[2] == b"new"


async def test_a_service_that_was_deleted_meanwhile_is_404(ground: Ground) -> None:
    def outdated() -> Started:
        ground.definitions.known.clear()
        raise RevisionOutdated("host: it was deleted")

    ground.starter.script.append(outdated)
    assert (await ground.get())[0] == 404


async def test_what_a_request_found_failed_is_not_asked_for_again(ground: Ground) -> None:
    ground.publish("dead", await closed_port())
    assert (await ground.get())[0] == 503
    assert ground.starter.calls == [frozenset({(HERE.peer_id, InstanceId("dead"))})]


async def test_a_request_is_not_sent_again_to_the_instance_that_it_lost(ground: Ground) -> None:
    """Not either when everybody else uses the instance again, as after a long wait."""
    await ground.run_instance("i1")
    (lost,) = ground.view.instances(HELLO)
    revision = ground.definitions.known[HELLO]
    head = parse_request_head(b"GET /hello HTTP/1.1\r\nHost: localhost\r\n\r\n")
    spec, decisions = ServiceSpec(process="serve"), ground.forwarder.decisions
    decision = decisions.begin(asked_of(head), revision, spec, RttLimits(), Timing(), None)
    decision.excluded = frozenset({lost.key})
    with pytest.raises(NothingFeasible):
        await ground.chooser.choose(decision, Traffic(HELLO))


async def test_an_unknown_service_is_404_with_what_was_meant(ground: Ground) -> None:
    status, _, body = await ground.get("/helo")
    assert status == 404
    assert b"did you mean hello?" in body


async def test_without_a_registry_an_unknown_name_is_503(ground: Ground) -> None:
    ground.definitions.reachable = False
    assert (await ground.get("/helo"))[0] == 503
    await ground.run_instance("i1")
    assert (await ground.get())[0] == 200


async def test_a_services_own_hard_limit_binds_what_it_sends(ground: Ground) -> None:
    async def serve(wire: Wire) -> None:
        while True:
            await wire.head()
            await wire.send(answer(b"far"))

    await open_gateway(ground, serve)  # another machine, whose distance is not known
    ground.publish("far", "", owner=THERE)
    strict = ServiceSpec(process="serve", hard_rtt_ms=1)
    ground.definitions.define(strict, "strict")
    ground.definitions.define(ServiceSpec(process="serve"), "easy")
    for name, status in (("easy", 200), ("strict", 503)):
        ground.origin = replace(LOCAL, caller=Caller(ServiceName(name), InstanceId("i")))
        assert (await ground.get())[0] == status
    ground.origin = LOCAL
    assert (await ground.get())[0] == 200


async def test_a_draining_lease_sends_the_request_elsewhere(ground: Ground) -> None:
    ground.publish("i1", await closed_port())
    del ground.allocator.addresses[InstanceId("i1")]  # refused: no lease, and there is no gateway
    await ground.run_instance("i2")
    for _ in range(4):
        assert (await ground.get())[2] == b"i2"


async def test_a_machines_garbled_address_fails_that_instance_only(ground: Ground) -> None:
    for number, address in enumerate(["nonsense", "a..b:1", f"{'x' * 200}:80", "[::1:9", ":"]):
        ground.publish(f"bad{number}", address)
    for identity, gateway in ((THERE, ("no port", "x:99999", f"{'y' * 200}.z:1")),):
        take_peer(ground.view, identity, gateway=gateway)
        ground.publish("far", "", owner=identity)
    for _ in range(3):
        assert (await ground.get())[0] in {502, 503}


# gateways


@dataclass
class Gateway:
    """The other machine's end of the gateway road, with scripted answers."""

    tls: PeerTls
    port: int
    instance: Instance
    line: bytes = b"MYXO/1 OK\r\n"
    met: list[str] = field(default_factory=list)


async def open_gateway(ground: Ground, instance: Instance, keys_of: str = "secret") -> Gateway:
    tls = open_tls(network_keys(keys_of), THERE.peer_id)
    gateway = Gateway(tls, 0, instance)

    async def serve(wire: Wire) -> None:
        stream = TlsStream(wire.stream, tls.server_context, server_side=True)
        try:
            await stream.do_handshake()
            await stream.send_all(gateway.line)
            await gateway.instance(Wire(cast("trio.SocketStream", stream)))
        finally:
            await trio.aclose_forcefully(stream)

    gateway.port = await ground.listen(serve)
    take_peer(
        ground.view,
        THERE,
        machine="there",
        gateway=(f"127.0.0.1:{gateway.port}",),
        certificate=tls.pin,
    )
    return gateway


async def test_another_machines_instance_is_reached_through_its_gateway_by_name(
    ground: Ground,
) -> None:
    async def serve(wire: Wire) -> None:
        while True:
            ground.requests.setdefault("far", []).append(await wire.head())
            await wire.send(answer(b"far", "Myxo-In-Flight: 7", "Myxo-Service-Time: 0.5"))

    await open_gateway(ground, serve)
    ground.publish("far", "", owner=THERE, concurrency=10)
    status, fields, body = await ground.ask(
        "GET /hello HTTP/1.1\nHost: localhost\nMyxo-Instance: forged"
    )
    assert (status, body) == (200, b"far")
    assert not [name for name in fields if name.startswith("myxo-")]
    (head,) = ground.requests["far"]
    assert re.findall(rb"(?i)myxo-instance: (\S+)", head) == [b"far"]
    (instance,) = ground.view.instances(HELLO)
    assert ground.view.in_flight(instance) == 7


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_what_the_gateway_says_is_gone_is_replaced_by_another_also_for_a_post(
    ground: Ground, method: str
) -> None:
    async def gone(wire: Wire) -> None:
        while True:
            head = await wire.head()
            if b"POST" in head:
                await wire.exactly(4)
            await wire.send(
                b"HTTP/1.1 421 Misdirected Request\r\nMyxo-Refused: gone\r\n"
                b"Content-Length: 0\r\n\r\n"
            )

    await open_gateway(ground, gone)
    ground.publish("far", "", owner=THERE)
    port = await ground.listen(ground.saying("new"))

    def started() -> Started:
        ground.publish("new", f"127.0.0.1:{port}")
        return Started(HERE.peer_id, InstanceId("new"), {})

    ground.starter.script.append(started)
    status, _, body = await (ground.get() if method == "GET" else ground.post())
    assert (status, body) == (200, b"new")


async def test_a_large_body_that_met_a_gone_instance_is_a_502_and_no_fault_of_the_proxy(
    ground: Ground,
) -> None:
    async def gone(wire: Wire) -> None:
        await wire.head()
        await wire.exactly(200_000)
        await wire.send(
            b"HTTP/1.1 421 Misdirected Request\r\nMyxo-Refused: gone\r\nContent-Length: 0\r\n\r\n"
        )

    await open_gateway(ground, gone)
    ground.publish("far", "", owner=THERE)
    status, _, body = await ground.post(b"x" * 200_000)
    assert status == 502
    assert b"too large to be sent again" in body


@pytest.mark.parametrize(
    "line", [b"MYXO/1 REFUSED stranger\r\n", b"HTTP/1.1 200 OK\r\n", b"x" * 1000, b"\r\n"]
)
async def test_a_gateway_that_does_not_accept_gets_no_request(ground: Ground, line: bytes) -> None:
    async def must_not(wire: Wire) -> None:
        ground.requests["far"] = [await wire.head()]

    gateway = await open_gateway(ground, must_not)
    gateway.line = line
    ground.publish("far", "", owner=THERE)
    assert (await ground.get())[0] == 503
    assert "far" not in ground.requests


async def test_a_gateway_with_another_certificate_than_its_record_gets_no_request(
    ground: Ground,
) -> None:
    async def must_not(wire: Wire) -> None:
        ground.requests["far"] = [await wire.head()]

    await open_gateway(ground, must_not)
    version = Version(epoch=NOW, counter=99)
    (peer,) = [p for p in ground.view.peers() if p.peer_id == THERE.peer_id]
    changed = peer.record.model_copy(update={"certificate": "0" * 64, "version": version})
    ground.view.apply(sign_record(THERE, changed), NOW)
    ground.publish("far", "", owner=THERE)
    assert (await ground.get())[0] == 503
    assert "far" not in ground.requests


async def test_a_gateway_of_another_network_gets_no_request(ground: Ground) -> None:
    async def must_not(wire: Wire) -> None:
        ground.requests["far"] = [await wire.head()]

    await open_gateway(ground, must_not, keys_of="another")
    ground.publish("far", "", owner=THERE)
    assert (await ground.get())[0] == 503
    assert "far" not in ground.requests


@pytest.mark.parametrize("load", ["9" * 5000, "-1", "x", "1e3", ""])
async def test_a_gateways_nonsense_load_is_no_load(ground: Ground, load: str) -> None:
    async def serve(wire: Wire) -> None:
        await wire.head()
        await wire.send(answer(b"far", f"Myxo-In-Flight: {load}"))

    await open_gateway(ground, serve)
    ground.publish("far", "", owner=THERE)
    assert (await ground.get())[2] == b"far"
    (instance,) = ground.view.instances(HELLO)
    assert ground.view.in_flight(instance) == 0


async def test_a_hundred_requests_leave_nothing_in_flight(ground: Ground) -> None:
    await ground.run_instance("i1")
    for _ in range(100):
        assert (await ground.get())[0] == 200
    (candidate,) = ground.upstreams.candidates(ground.view.instances(HELLO), 0.0)
    assert candidate.in_flight == 0
    road = await ground.roads.to(candidate.instance)
    assert road.lease is not None
    assert road.lease.in_flight == 0
    assert (road.pool.in_use, road.pool.idle) == (0, 1)


# health, retries, hedges, circuits, rates, deadlines


def failing(ground: Ground, name: str, status: str = "500 No") -> Instance:
    async def serve(wire: Wire) -> None:
        while True:
            ground.requests.setdefault(name, []).append(await wire.head())
            await wire.send(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode())

    return serve


def silent(ground: Ground, name: str, ends: list[str]) -> Instance:
    """An instance that takes requests, answers none, and notes when it is left."""

    async def serve(wire: Wire) -> None:
        ground.requests.setdefault(name, []).append(await wire.head())
        try:
            await wire.exactly(1)
        except (EOFError, trio.BrokenResourceError):
            ends.append(name)

    return serve


async def nothing_in_flight(ground: Ground) -> None:
    """Return when every attempt is put away, which may be after the client's answer."""
    while sum(c.in_flight for c in ground.known()):
        await trio.testing.wait_all_tasks_blocked(0.001)


def define(ground: Ground, **fields: object) -> None:
    ground.definitions.define(ServiceSpec.model_validate({"process": "serve", **fields}))


async def test_an_instance_that_answers_errors_is_ejected_and_a_well_one_is_not(
    ground: Ground,
) -> None:
    define(ground, eject_after=3)
    await ground.run_instance("bad", failing(ground, "bad"))
    await ground.run_instance("good")
    statuses = [(await ground.get())[0] for _ in range(100)]
    assert len(ground.requests["bad"]) == 3
    assert statuses.count(500) == 3
    assert statuses[-50:] == [200] * 50


def calling(status: bytes, *, alone: bool) -> Instance:
    """Answer calls of gRPC with a status, in trailers behind a message or with nothing else."""

    async def call(stream: ServerStream, head: RequestHead) -> None:
        del head
        told: list[Field] = [(b"grpc-status", status)]
        if alone:
            await stream.start_response(200, b"", told, NO_BODY, b"", trailers=())
        else:
            await stream.start_response(200, b"", [], CHUNKED, b"message", trailers=told)

    async def serve(wire: Wire) -> None:
        await serve_http2(transport(wire.stream), call, stopping=trio.Event())

    return serve


async def called(ground: Ground, *, alone: bool) -> bytes:
    """Make a call by HTTP/1.1 and return its `grpc-status`."""
    await ground.client.send(
        b"POST /hello/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"
    )
    seen = await ground.client.head()
    if not alone:
        seen += await ground.client.head()
    found = re.search(rb"grpc-status: (\d+)", seen)
    assert found is not None, seen
    return found[1]


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize(
    ("status", "bad"), [(b"14", True), (b"13", True), (b"4", False), (b"5", False)]
)
async def test_an_instance_whose_calls_fail_is_ejected_and_not_for_the_callers_fault(
    ground: Ground, status: bytes, bad: bool, alone: bool
) -> None:
    define(ground, eject_after=3, protocol="h2c")
    await ground.run_instance("bad", calling(status, alone=alone))
    await ground.run_instance("good", calling(b"0", alone=alone))
    told = [await called(ground, alone=alone) for _ in range(100)]
    assert set(told) == {status, b"0"}
    assert told.count(status) == 3 if bad else told.count(status) > 10


async def test_the_last_instance_is_never_ejected(ground: Ground) -> None:
    define(ground, eject_after=1)
    await ground.run_instance("bad", failing(ground, "bad", "503 Busy"))
    assert [(await ground.get())[0] for _ in range(20)] == [503] * 20
    assert ground.starter.calls == []


async def test_answers_that_are_the_clients_fault_eject_nobody(ground: Ground) -> None:
    define(ground, eject_after=1)
    await ground.run_instance("a", failing(ground, "a", "404 No"))
    await ground.run_instance("b", failing(ground, "b", "404 No"))
    assert [(await ground.get())[0] for _ in range(20)] == [404] * 20
    assert not any(c.failed for c in ground.known())


async def test_what_is_lost_is_not_repeated_when_the_retry_budget_is_spent(ground: Ground) -> None:
    define(ground, retry_percent=0)
    traffic, spec = ground.guards.traffics.of(HELLO), ServiceSpec(process="serve", retry_percent=0)
    while traffic.retry(spec):
        pass
    await ground.run_instance("i1", closing)
    await ground.run_instance("i2")
    ground.upstreams.failed(ground.view.instances(HELLO)[1], trio.current_time())
    status, fields, body = await ground.get()
    assert (status, fields["retry-after"]) == (503, "1")
    assert b"retry_percent" in body


async def test_a_slow_answer_is_overtaken_by_a_second_instances(ground: Ground) -> None:
    define(ground, hedge_ms=10)
    ends: list[str] = []
    await ground.run_instance("slow", silent(ground, "slow", ends))
    await ground.run_instance("i2")
    ground.upstreams.begin(ground.view.instances(HELLO)[0])  # the quick one is the busier one
    for _ in range(2):
        status, fields, body = await ground.ask(
            "GET /hello HTTP/1.1\nHost: localhost\nX-Myxo-Explain: 1"
        )
        assert (status, body, fields["x-myxo-instance"]) == (200, b"i2", "i2")
    while [c.in_flight for c in ground.known()] != [1, 0]:  # the loser is still put away
        await trio.testing.wait_all_tasks_blocked(0.001)
    assert len(ground.requests["i2"]) == 2


async def test_a_hedge_that_was_overtaken_is_ended_and_counted_against_the_budget(
    ground: Ground,
) -> None:
    define(ground, hedge_ms=10)
    ends: list[str] = []
    for name in ("a", "b"):
        await ground.run_instance(name, silent(ground, name, ends))

    await ground.client.send(b"GET /hello HTTP/1.1\r\nHost: localhost\r\n\r\n")
    while len(ground.requests) < 2:
        await trio.testing.wait_all_tasks_blocked(0.001)
    assert ground.guards.traffics.of(HELLO)._retries == 1
    await ground.client.aclose()
    while len(ends) < 2:  # the client has left, so nobody needs an answer
        await trio.testing.wait_all_tasks_blocked(0.001)
    assert sorted(ends) == ["a", "b"]
    await nothing_in_flight(ground)


@pytest.mark.parametrize(
    "request_head",
    [
        "POST /hello HTTP/1.1\nHost: localhost\nContent-Length: 0",
        "PUT /hello HTTP/1.1\nHost: localhost\nContent-Length: 1\n\nx",
    ],
)
async def test_what_may_have_effects_or_has_a_body_is_not_hedged(
    ground: Ground, request_head: str
) -> None:
    define(ground, hedge_ms=0.001)

    async def slow(wire: Wire) -> None:
        while True:
            ground.requests.setdefault("slow", []).append(await wire.head())
            await trio.sleep(0.05)
            await wire.send(answer(b"slow"))

    await ground.run_instance("slow", slow)
    await ground.run_instance("i2", slow)
    head, _, body = request_head.partition("\n\n")
    assert (await ground.ask(head, body.encode()))[0] == 200
    assert len(ground.requests["slow"]) == 1


async def test_a_first_instance_that_is_lost_before_the_hedge_is_replaced_as_ever(
    ground: Ground,
) -> None:
    define(ground, hedge_ms=60_000)
    await ground.run_instance("i1", closing)
    await ground.run_instance("i2")
    assert [(await ground.get())[2] for _ in range(3)] == [b"i2"] * 3


async def test_over_max_in_flight_the_answer_is_503_with_the_reason(ground: Ground) -> None:
    define(ground, max_in_flight=1)
    go = trio.Event()

    async def held(wire: Wire) -> None:
        while True:
            await wire.head()
            await go.wait()
            await wire.send(answer(b"ok"))

    await ground.run_instance("i1", held)
    statuses: list[int] = []

    async def ask() -> None:
        statuses.append(await ground.alone("GET /hello HTTP/1.1\nHost: localhost"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        while not ground.guards.traffics.of(HELLO).in_flight:
            await trio.testing.wait_all_tasks_blocked(0.001)
        status, fields, body = await ground.get()
        go.set()
    assert (status, fields["retry-after"], statuses) == (503, "1", [200])
    assert b"max_in_flight" in body
    kept = list(ground.forwarder.decisions.kept())
    assert any(d.status == 503 and "max_in_flight" in d.refusal for d in kept)
    assert (await ground.get())[0] == 200


async def test_more_than_max_pending_do_not_wait_for_a_start(ground: Ground) -> None:
    define(ground, max_pending=2)
    port = await ground.listen(ground.saying("i1"))
    ground.starter.held = trio.Event()

    def started() -> Started:
        ground.publish("i1", f"127.0.0.1:{port}")
        return Started(HERE.peer_id, InstanceId("i1"), {})

    ground.starter.script.append(started)
    statuses: list[int] = []

    async def ask() -> None:
        statuses.append(await ground.alone("GET /hello HTTP/1.1\nHost: localhost"))

    async with trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(ask)
        while ground.guards.traffics.of(HELLO).pending < 2:
            await trio.testing.wait_all_tasks_blocked(0.001)
        status, fields, body = await ground.get()
        ground.starter.held.set()
    assert (status, fields["retry-after"], statuses) == (503, "1", [200, 200])
    assert b"2 requests wait" in body
    assert b"max_pending" in body


@pytest.mark.parametrize("limit", ["rate_limit", "client_rate_limit", "global_rate_limit"])
async def test_over_a_rate_limit_the_answer_is_429_with_when_to_come_again(
    ground: Ground, limit: str
) -> None:
    define(ground, **{limit: {"per_s": 0.01, "burst": 2}})
    ground.counter.limit = RateLimit(per_s=0.01, burst=2)
    await ground.run_instance("i1")
    answers = [await ground.get() for _ in range(3)]
    assert [status for status, _, _ in answers] == [200, 200, 429]
    _, fields, body = answers[2]
    assert 90 <= int(fields["retry-after"]) <= 100
    assert limit.encode() in body
    assert len(ground.requests["i1"]) == 2


async def test_each_client_has_a_rate_of_its_own(ground: Ground) -> None:
    define(ground, client_rate_limit={"per_s": 0.01, "burst": 1})
    await ground.run_instance("i1")
    statuses = []
    for caller in (None, Caller(ServiceName("web"), InstanceId("w1")), None):
        ground.origin = replace(LOCAL, caller=caller)
        statuses.append((await ground.get())[0])
    assert statuses == [200, 200, 429]


@pytest.mark.parametrize("field", ["X-Request-Timeout: 0.5", "grpc-timeout: 500m", ""])
async def test_a_request_that_is_not_answered_in_time_is_504_and_ended(
    ground: Ground, field: str
) -> None:
    # Long enough for a busy machine to reach the instance in it, which shall see the end.
    define(ground, **({} if field else {"timeout_s": 0.5}))
    ends: list[str] = []
    await ground.run_instance("slow", silent(ground, "slow", ends))
    lines = f"GET /hello HTTP/1.1\nHost: localhost\n{field}"
    status, _, body = await ground.ask(lines.rstrip())
    assert status == 504
    assert b"within 0.5 s" in body
    while not ends:
        await trio.testing.wait_all_tasks_blocked(0.001)
    await nothing_in_flight(ground)


async def test_what_is_left_of_the_deadline_is_passed_on(ground: Ground) -> None:
    await ground.run_instance("i1")
    await ground.ask(
        "GET /hello HTTP/1.1\nHost: localhost\nX-Request-Timeout: 20\nGrpc-Timeout: 30S"
    )
    await ground.get()
    bounded, free = ground.requests["i1"]
    (left,) = re.findall(rb"(?i)x-request-timeout: ([\d.]+)", bounded)
    (grpc,) = re.findall(rb"(?i)grpc-timeout: (\d+)m", bounded)
    assert 10 < float(left) < 20
    assert 10_000 < int(grpc) < 20_000
    assert b"timeout" not in free.lower()


async def test_an_answer_that_ends_too_late_is_cut(ground: Ground) -> None:
    async def drip(wire: Wire) -> None:
        await wire.head()
        await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\nbegun")
        await trio.sleep_forever()

    define(ground, timeout_s=1.0)
    await ground.run_instance("i1", drip)
    await ground.client.send(b"GET /hello HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert b"200" in await ground.client.head()
    with pytest.raises((EOFError, trio.BrokenResourceError)):
        await ground.client.exactly(100)


async def test_a_start_that_takes_longer_than_the_deadline_is_504(ground: Ground) -> None:
    define(ground, timeout_s=0.05)
    ground.starter.held = trio.Event()
    status, _, body = await ground.get()
    assert status == 504
    assert b"did not answer within" in body
    assert ground.guards.traffics.of(HELLO).pending == 0
    ground.starter.held.set()


async def test_the_routing_table_beats_discovery_from_the_next_request_on(ground: Ground) -> None:
    await ground.run_instance("i1")
    assert (await ground.get())[2] == b"i1"
    ground.rtable("set", HELLO, await ground.run_target("outside"))
    status, _, body = await ground.get("/hello/x?q=1")
    assert (status, body) == (200, b"outside")
    (head,) = ground.requests["outside"]
    assert head.startswith(b"GET /x?q=1 HTTP/1.1\r\nHost: 127.0.0.1:")
    assert b"myxo-instance" not in head.lower()
    ground.rtable("unset")
    assert (await ground.get())[2] == b"i1"


async def test_a_service_of_the_routing_table_needs_no_definition(ground: Ground) -> None:
    ground.definitions.reachable = False
    assert (await ground.get("/elsewhere/x"))[0] == 503
    ground.rtable("set", "elsewhere", await ground.run_target("outside"))
    assert (await ground.get("/elsewhere/x"))[2] == b"outside"
    ground.rtable("clear")
    assert (await ground.get("/elsewhere/x"))[0] == 503
    assert ground.starter.calls == []


async def test_targets_get_requests_in_proportion_to_their_weights(ground: Ground) -> None:
    one, other = await ground.run_target("one"), await ground.run_target("other")
    ground.rtable("set", HELLO, one, other, weights=[0.5, 1.5])
    answers = [(await ground.get())[2] for _ in range(20)]
    assert Counter(answers) == {b"one": 5, b"other": 15}


async def test_a_target_that_is_down_costs_no_request_and_is_tried_again(ground: Ground) -> None:
    down, up = await closed_port(), await ground.run_target("up")
    ground.rtable("set", HELLO, down, up)
    assert [(await ground.get())[2] for _ in range(4)] == [b"up"] * 4
    ground.rtable("set", HELLO, down)
    for _ in range(2):
        status, _, body = await ground.get()
        assert status == 502
        assert b"routing table" in body
    assert ground.starter.calls == []


async def test_a_static_service_that_is_not_in_the_table_is_not_started(ground: Ground) -> None:
    ground.definitions.define(ServiceSpec(process="serve", policy=Balancing(name="static")))
    status, _, body = await ground.get()
    assert status == 503
    assert b"myxo rtable set hello" in body
    assert ground.starter.calls == []


async def test_a_client_with_the_cookie_keeps_its_instance(ground: Ground) -> None:
    for name in ("i1", "i2", "i3"):
        await ground.run_instance(name)
    ground.definitions.define(ServiceSpec(process="serve", sticky="sid"))
    _, fields, first = await ground.get()
    assert fields["set-cookie"] == f"sid={first.decode()}; Path=/hello; HttpOnly; SameSite=Lax"
    with_cookie = f"GET /hello/x HTTP/1.1\nHost: localhost\nCookie: sid={first.decode()}"
    for _ in range(10):
        _, fields, body = await ground.ask(with_cookie)
        assert body == first
        assert "set-cookie" not in fields
    ground.publish(first.decode(), "", withdrawn=True)
    _, fields, body = await ground.ask(with_cookie)
    assert body != first
    assert fields["set-cookie"].startswith(f"sid={body.decode()};")


async def test_the_same_key_goes_to_the_same_instance(ground: Ground) -> None:
    for name in ("i1", "i2", "i3"):
        await ground.run_instance(name)
    hashed = Balancing(name="maglev", hash="header:X-User")
    ground.definitions.define(ServiceSpec(process="serve", policy=hashed))
    found = {}
    for user in range(8):
        request = f"GET /hello/x HTTP/1.1\nHost: localhost\nX-User: u{user}"
        (found[user],) = {(await ground.ask(request))[2] for _ in range(4)}
    assert len(set(found.values())) > 1


async def test_the_original_destination_answers_or_nobody(ground: Ground) -> None:
    for name in ("i1", "i2"):
        await ground.run_instance(name)
    named = Balancing(name="original_destination")
    ground.definitions.define(ServiceSpec(process="serve", policy=named))
    request = "GET /hello/x HTTP/1.1\nHost: localhost\nX-Myxo-Destination: {}"
    assert {(await ground.ask(request.format("i2")))[2] for _ in range(6)} == {b"i2"}
    status, _, body = await ground.ask(request.format("127.0.0.1:22"))
    assert status == 503
    assert b"no instance '127.0.0.1:22'" in body
    assert (await ground.get())[0] == 200


async def test_an_error_that_another_instance_need_not_answer_is_not_given_to_the_client(
    ground: Ground,
) -> None:
    define(ground, retry_statuses=[503], eject_after=0)
    await ground.run_instance("bad", failing(ground, "bad", "503 Busy"))
    await ground.run_instance("good")
    assert [(await ground.get())[0] for _ in range(30)] == [200] * 30
    assert len(ground.requests["bad"]) > 1
    await nothing_in_flight(ground)


async def test_an_error_is_given_to_the_client_where_nobody_else_can_be_asked(
    ground: Ground,
) -> None:
    define(ground, retry_statuses=[503])
    await ground.run_instance("bad", failing(ground, "bad", "503 Busy"))
    assert (await ground.get())[0] == 503
    await ground.run_instance("worse", failing(ground, "worse", "503 Busy"))
    assert (await ground.get())[0] == 503, "after each was asked once"
    assert ground.starter.calls == []
    await nothing_in_flight(ground)


async def test_an_error_of_what_may_have_had_effects_is_the_answer(ground: Ground) -> None:
    define(ground, retry_statuses=[503], eject_after=0)
    for name in ("a", "b"):
        await ground.run_instance(name, failing(ground, name, "503 Busy"))
    head = "POST /hello HTTP/1.1\nHost: localhost\nContent-Length: 0"
    assert [(await ground.ask(head))[0] for _ in range(4)] == [503] * 4
    assert sum(len(asked) for asked in ground.requests.values()) == 4


async def test_an_instance_that_never_answers_in_its_services_time_is_ejected(
    ground: Ground,
) -> None:
    define(ground, timeout_s=1.0, eject_after=1)
    await ground.run_instance("hangs", silent(ground, "hangs", []))
    await ground.run_instance("good")
    statuses = [(await ground.get())[0] for _ in range(30)]
    assert statuses.count(504) == 1
    assert statuses[-20:] == [200] * 20


async def test_a_client_that_waits_for_no_time_at_all_ejects_nobody(ground: Ground) -> None:
    define(ground, eject_after=1)
    for name in ("a", "b"):
        await ground.run_instance(name, silent(ground, name, []))
    head = "GET /hello HTTP/1.1\nHost: localhost\nX-Request-Timeout: 0.01"
    assert [(await ground.ask(head))[0] for _ in range(4)] == [504] * 4
    assert not any(c.failed for c in ground.known())


async def test_a_hedge_waits_for_as_long_as_most_answers_took(ground: Ground) -> None:
    define(ground, hedge_percentile=95)
    await ground.run_instance("i2")
    for _ in range(LEAST):
        assert (await ground.get())[0] == 200
    await ground.run_instance("slow", silent(ground, "slow", []))
    assert [(await ground.get())[2] for _ in range(10)] == [b"i2"] * 10
    assert ground.guards.traffics.of(HELLO)._retries >= 1
    assert len(ground.requests["slow"]) >= 1
