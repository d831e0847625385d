import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

import pytest
import trio
import trio.testing
from prometheus_client import CollectorRegistry

from allocator.instances.instances import Instances
from allocator.metrics import AllocatorMetrics
from allocator.rules.admission import Ledger, Limits, Policy
from allocator.serving import gateway as gateway_module
from allocator.serving.gateway import Gateway
from allocator.testing import FakeMachine, FakePublisher, FakeRuntime, open_fake_machine
from overlay.host import Host, open_host
from overlay.http.carried import HTTP_PROTOCOL, open_carried
from overlay.http.tls_stream import TlsStream
from overlay.http.upstream import Pool
from overlay.identity import Identity
from overlay.names import Digest, InstanceId, PeerId, ServiceName
from overlay.passphrase import network_keys
from overlay.revision import Revision, SignedRevision
from overlay.spec import Image, ServiceSpec
from overlay.tls import ALPN_UNGREETED, PeerTls, open_tls

KEYS = network_keys(None)
OWNER = Identity.generate()
IMAGE = Image(reference="hello", config_digest=Digest("sha256:" + "0" * 64))
SPEC = ServiceSpec(image=IMAGE, env={"COLOUR": "blue"}, idle_stop_s=1000)
HELLO = SignedRevision.sign(OWNER, Revision(name=ServiceName("hello"), number=1, spec=SPEC))


def fresh_tls() -> PeerTls:
    return open_tls(KEYS, Identity.generate().peer_id)


@dataclass
class Caller:
    """A proxy's end of one connection."""

    stream: trio.abc.Stream
    buffer: bytes = b""

    async def line(self) -> bytes:
        return await self.until(b"\r\n")

    async def until(self, mark: bytes) -> bytes:
        while mark not in self.buffer:
            data = await self.stream.receive_some()
            if not data:
                raise EOFError(self.buffer)
            self.buffer += data
        end = self.buffer.index(mark) + len(mark)
        found, self.buffer = self.buffer[:end], self.buffer[end:]
        return found

    async def ask(self, instance: str, request_line: str = "GET / HTTP/1.1") -> None:
        head = f"{request_line}\r\nHost: hello\r\nMyxo-Instance: {instance}\r\n\r\n"
        await self.stream.send_all(head.encode())

    async def answer(self) -> tuple[int, dict[str, str], str]:
        head = (await self.until(b"\r\n\r\n")).decode()
        status_line, *lines = head.strip().split("\r\n")
        headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in lines)}
        length = int(headers["content-length"])
        while len(self.buffer) < length:
            self.buffer += await self.stream.receive_some()
        body, self.buffer = self.buffer[:length], self.buffer[length:]
        return int(status_line.split()[1]), headers, body.decode()


@dataclass
class Lab:
    machine: FakeMachine
    instances: Instances
    port: int
    pins: set[str]
    news: list[trio.Event]
    gateway: Gateway
    peers: set[PeerId]
    tls: PeerTls = field(default_factory=fresh_tls)

    @asynccontextmanager
    async def call(self, tls: PeerTls | None = None) -> AsyncIterator[Caller]:
        caller_tls = tls or self.tls
        tcp = await trio.open_tcp_stream("127.0.0.1", self.port)
        stream = TlsStream(tcp, caller_tls.client_context)
        try:
            await stream.do_handshake()
            yield Caller(stream)
        finally:
            await trio.aclose_forcefully(stream)

    @asynccontextmanager
    async def carry(self, *, member: bool = True) -> AsyncIterator[tuple[Caller, Host]]:
        """Have the overlay carry a connection to the gateway; yield it and the caller's host."""
        async with (
            open_host(Identity.generate(), ["/ip4/127.0.0.1/tcp/0"], psk=None) as here,
            open_host(Identity.generate(), [], psk=None) as there,
        ):
            here.handle_bytes(HTTP_PROTOCOL, self.gateway.serve_carried)
            await there.connect(here.peer_id, here.listen_addresses()[0], timeout_s=5)
            if member:
                self.peers.add(there.peer_id)
            stream = await open_carried(there, connected, here.peer_id)
            yield Caller(stream), there
            await trio.aclose_forcefully(stream)

    async def start(self) -> InstanceId:
        await self.instances.allocate(HELLO)
        (instance,) = self.machine.instances
        return instance

    def admit(self, tls: PeerTls) -> None:
        self.pins.add(tls.pin)
        for event in self.news:
            event.set()


async def connected(_: PeerId) -> None:
    pass


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    pins: set[str] = set()
    news: list[trio.Event] = []

    async def members_changed() -> None:
        news.append(trio.Event())
        await news[-1].wait()

    metrics = AllocatorMetrics(CollectorRegistry())
    async with open_fake_machine() as machine, trio.open_nursery() as nursery:
        instances = Instances(
            {"docker": FakeRuntime(machine)},
            Ledger(Limits(1000, 1000, 10)),
            Policy(open_network=False, allow_any=False, allowed=frozenset),
            FakePublisher(),
            metrics,
        )
        await nursery.start(instances.run)
        peers: set[PeerId] = set()
        gateway = Gateway(
            instances,
            fresh_tls(),
            pins.__contains__,
            peers.__contains__,
            members_changed,
            metrics,
        )
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        await nursery.start(gateway.serve, listener)
        port = listener.socket.getsockname()[1]
        lab = Lab(machine, instances, port, pins, news, gateway, peers)
        pins.add(lab.tls.pin)
        with trio.fail_after(60):
            yield lab
        nursery.cancel_scope.cancel()


async def test_a_members_request_reaches_the_instance_and_its_load_comes_back(lab: Lab) -> None:
    instance = await lab.start()
    async with lab.call() as caller:
        assert await caller.line() == b"MYXO/1 OK\r\n"
        await caller.ask(instance)
        status, headers, body = await caller.answer()
    assert status == 200
    assert "COLOUR=blue" in body
    assert headers["myxo-in-flight"] == "1"
    assert 0 <= float(headers["myxo-service-time"]) < 5


async def test_a_connection_carries_one_request_after_the_other(lab: Lab) -> None:
    instance = await lab.start()
    async with lab.call() as caller:
        await caller.line()
        for _ in range(5):
            await caller.ask(instance)
            assert (await caller.answer())[0] == 200
        while lab.instances.use.load() != {instance: 0}:
            await trio.testing.wait_all_tasks_blocked(0.001)


async def test_whoever_holds_a_certificate_that_no_member_names_is_refused(lab: Lab) -> None:
    async with lab.call(fresh_tls()) as stranger:
        line = await stranger.line()
        assert line.startswith(b"MYXO/1 REFUSED no member of this network")
        with pytest.raises((EOFError, trio.BrokenResourceError)):
            await stranger.line()


def ungreeted(tls: PeerTls) -> PeerTls:
    """Return it as one that waits for no word of the gateway."""
    tls.client_context.set_alpn_protocols([ALPN_UNGREETED])
    return tls


async def test_who_speaks_only_http_is_served_without_a_word_before(lab: Lab) -> None:
    instance = await lab.start()
    async with lab.call(ungreeted(lab.tls)) as caller:
        for _ in range(2):
            await caller.ask(instance)
            assert (await caller.answer())[0] == 200


async def test_a_stranger_that_speaks_only_http_is_refused_by_an_answer(lab: Lab) -> None:
    instance = await lab.start()
    async with lab.call(ungreeted(fresh_tls())) as stranger:
        await stranger.ask(instance)
        status, headers, body = await stranger.answer()
        assert (status, headers["myxo-refused"]) == (421, "gone")
        assert headers["connection"] == "close"
        assert body == "no member of this network has this certificate\n"
        with pytest.raises((EOFError, trio.BrokenResourceError)):
            await stranger.line()
    assert not lab.instances.use.load()[instance]


async def test_a_gateway_that_is_full_refuses_by_an_answer(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    instance = await lab.start()
    monkeypatch.setattr(gateway_module, "MAX_CONNECTIONS", 0)
    async with lab.call(ungreeted(lab.tls)) as caller:
        await caller.ask(instance)
        status, headers, _ = await caller.answer()
    assert (status, headers["myxo-refused"]) == (421, "gone")


async def test_any_instance_of_a_revision_is_the_one_with_the_most_room(lab: Lab) -> None:
    narrow = SPEC.model_copy(update={"concurrency": 1})
    given = SignedRevision.sign(OWNER, Revision(name=ServiceName("hello"), number=1, spec=narrow))
    await lab.instances.allocate(given)
    (instance,) = lab.machine.instances
    use = lab.instances.use
    async with lab.call(ungreeted(lab.tls)) as caller:
        assert (await asked_for_any(caller, "hello/1"))[0] == 200
        with use.request(instance):
            status, headers, body = await asked_for_any(caller, "hello/1")
            assert (status, headers["myxo-refused"]) == (421, "gone")
            assert "has room" in body
        for other in ("hello/2", "other/1", "/"):
            status, headers, _ = await asked_for_any(caller, other)
            assert status == (400 if other == "/" else 421)


async def test_a_refused_request_for_any_instance_is_heard_out_first(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An Envoy tries no request elsewhere whose answer comes before its end."""
    monkeypatch.setattr(gateway_module, "HEAR_OUT_BYTES", 8)
    for size, expected in ((8, 421), (9, 503)):
        async with lab.call(ungreeted(lab.tls)) as caller, trio.open_nursery() as nursery:
            head = "POST / HTTP/1.1\r\nHost: hello\r\nMyxo-Any-Of: other/1\r\n"
            await caller.stream.send_all(f"{head}Content-Length: {size}\r\n\r\n1234".encode())
            got: list[int] = []

            async def hear(caller: Caller = caller, got: list[int] = got) -> None:
                got.append((await caller.answer())[0])

            nursery.start_soon(hear)
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert not got
            await caller.stream.send_all(b"5" * (size - 4))
        assert got == [expected]


async def asked_for_any(caller: Caller, of: str) -> tuple[int, dict[str, str], str]:
    head = f"GET / HTTP/1.1\r\nHost: hello\r\nMyxo-Any-Of: {of}\r\n\r\n"
    await caller.stream.send_all(head.encode())
    return await caller.answer()


async def test_a_member_whose_record_comes_a_moment_later_is_accepted(lab: Lab) -> None:
    newcomer = fresh_tls()
    async with lab.call(newcomer) as caller, trio.open_nursery() as nursery:
        accepted: list[bytes] = []

        async def read() -> None:
            accepted.append(await caller.line())

        nursery.start_soon(read)
        while not lab.news:
            await trio.testing.wait_all_tasks_blocked(0.01)
        assert not accepted
        lab.admit(newcomer)
    assert accepted == [b"MYXO/1 OK\r\n"]


async def test_a_caller_that_is_cut_off_loses_its_connections_in_the_middle_of_a_request(
    lab: Lab,
) -> None:
    instance = await lab.start()
    banned, other = fresh_tls(), fresh_tls()
    lab.admit(banned)
    lab.admit(other)
    async with lab.call(banned) as idle, lab.call(banned) as busy, lab.call(other) as member:
        for caller in (idle, busy, member):
            assert await caller.line() == b"MYXO/1 OK\r\n"
        await busy.stream.send_all(b"POST / HTTP/1.1\r\nHost: x\r\n")
        lab.pins.discard(banned.pin)
        lab.gateway.cut(banned.pin)
        for caller in (idle, busy):
            with pytest.raises((trio.BrokenResourceError, EOFError)):
                await caller.line()
        await member.ask(instance)
        assert (await member.answer())[0] == 200


async def test_another_networks_certificate_does_not_get_through_the_handshake(lab: Lab) -> None:
    other = open_tls(network_keys("another passphrase"), OWNER.peer_id)
    with pytest.raises((trio.BrokenResourceError, EOFError)):
        async with lab.call(other) as caller:
            await caller.line()


async def test_what_speaks_no_tls_is_dropped_and_harms_nobody(lab: Lab) -> None:
    instance = await lab.start()
    async with await trio.open_tcp_stream("127.0.0.1", lab.port) as stream:
        await stream.send_all(b"GET / HTTP/1.1\r\nHost: hello\r\n\r\n")
        with contextlib.suppress(trio.BrokenResourceError):
            while await stream.receive_some():
                pass
    async with lab.call() as caller:
        await caller.line()
        await caller.ask(instance)
        assert (await caller.answer())[0] == 200


async def test_an_unknown_instance_is_refused_so_that_the_request_may_go_elsewhere(
    lab: Lab,
) -> None:
    instance = await lab.start()
    async with lab.call() as caller:
        await caller.line()
        await caller.ask("nothing")
        status, headers, _ = await caller.answer()
        assert (status, headers["myxo-refused"]) == (421, "gone")
        await caller.ask(instance)
        assert (await caller.answer())[0] == 200


async def test_the_connections_to_an_instance_end_before_it_does(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.machine.keep_alive = True
    alone: list[bool] = []
    gone = trio.Event()
    remove = FakeRuntime.remove

    async def remove_and_note(self: FakeRuntime, instance: InstanceId, *, grace_s: float) -> None:
        with trio.move_on_after(3) as waited:
            await lab.machine.instances[instance].alone.wait()
        alone.append(not waited.cancelled_caught)
        await remove(self, instance, grace_s=grace_s)
        gone.set()

    monkeypatch.setattr(FakeRuntime, "remove", remove_and_note)
    instance = await lab.start()
    async with lab.call() as caller:
        await caller.line()
        await caller.ask(instance)
        await caller.answer()
        assert lab.machine.instances[instance].connections == 1
        lab.instances.drain_outdated(HELLO.revision.name, 2)
        await gone.wait()
    assert alone == [True]


async def test_a_crashed_instance_is_refused_too(lab: Lab) -> None:
    instance = await lab.start()
    async with lab.call() as caller:
        await caller.line()
        lab.machine.instances[instance].crash()
        await caller.ask(instance)
        status, headers, _ = await caller.answer()
    assert (status, headers["myxo-refused"]) == (421, "gone")


async def test_a_malformed_request_is_answered_and_the_connection_ends(lab: Lab) -> None:
    async with lab.call() as caller:
        await caller.line()
        await caller.stream.send_all(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
        assert (await caller.answer())[0] == 400
        with pytest.raises((EOFError, trio.BrokenResourceError)):
            await caller.line()


async def test_a_bug_that_one_connection_meets_ends_no_other(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:

        async def fail(*_: object) -> None:
            raise ValueError("a bug")

        patched.setattr(Gateway, "_serve_client", fail)
        async with lab.call() as caller:
            assert await caller.line() == b"MYXO/1 OK\r\n"
            with pytest.raises((EOFError, trio.BrokenResourceError)):
                await caller.line()
    async with lab.call() as caller:
        assert await caller.line() == b"MYXO/1 OK\r\n"


# carried by the overlay


async def test_a_carried_request_reaches_the_instance_and_is_counted_as_any(lab: Lab) -> None:
    instance = await lab.start()
    async with lab.carry() as (caller, _):
        assert await caller.line() == b"MYXO/1 OK\r\n"
        for _again in range(3):
            await caller.ask(instance)
            status, headers, body = await caller.answer()
            assert (status, headers["myxo-in-flight"]) == (200, "1")
            assert "COLOUR=blue" in body
        await caller.ask("nothing")
        status, headers, _body = await caller.answer()
        assert (status, headers["myxo-refused"]) == (421, "gone")
        while lab.instances.use.load() != {instance: 0}:
            await trio.testing.wait_all_tasks_blocked(0.001)


async def test_a_carried_connection_of_a_peer_that_is_no_member_is_refused(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway_module, "MEMBER_WAIT_S", 0.1)
    async with lab.carry(member=False) as (caller, _):
        assert (await caller.line()).startswith(b"MYXO/1 REFUSED this peer is no member")
        with pytest.raises((EOFError, trio.BrokenResourceError)):
            await caller.line()


async def test_a_peer_that_becomes_a_member_a_moment_later_is_accepted(lab: Lab) -> None:
    async with lab.carry(member=False) as (caller, host):
        while not lab.news:
            await trio.testing.wait_all_tasks_blocked(0.01)
        lab.peers.add(host.peer_id)
        lab.admit(lab.tls)  # which tells of the change
        assert await caller.line() == b"MYXO/1 OK\r\n"


async def test_a_request_whose_connection_is_cut_is_in_flight_no_more(
    lab: Lab, nursery: trio.Nursery
) -> None:
    async def never_answer(stream: trio.SocketStream) -> None:
        async with stream:
            await trio.sleep_forever()

    (listener,) = await nursery.start(partial(trio.serve_tcp, never_answer, 0, host="127.0.0.1"))
    instance = await lab.start()
    port = listener.socket.getsockname()[1]
    lab.gateway._pools[instance] = Pool(partial(trio.open_tcp_stream, "127.0.0.1", port))
    async with lab.carry() as (caller, host):
        await caller.line()
        await caller.ask(instance)
        while lab.instances.use.load() != {instance: 1}:
            await trio.testing.wait_all_tasks_blocked(0.001)
        for peer in host.connected():
            await host.disconnect(peer)
        while lab.instances.use.load() != {instance: 0}:
            await trio.testing.wait_all_tasks_blocked(0.001)
    nursery.cancel_scope.cancel()


async def test_what_is_not_http_is_answered_and_ends_one_connection_only(lab: Lab) -> None:
    instance = await lab.start()
    async with lab.carry() as (caller, _):
        await caller.line()
        await caller.stream.send_all(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
        assert (await caller.answer())[0] == 400
    async with lab.carry() as (caller, _):
        await caller.line()
        await caller.ask(instance)
        assert (await caller.answer())[0] == 200


async def test_a_request_that_comes_to_a_paused_instance_wakes_it(lab: Lab) -> None:
    spec = SPEC.model_copy(update={"idle_pause_s": 1})
    given = SignedRevision.sign(OWNER, Revision(name=ServiceName("rests"), number=1, spec=spec))
    with trio.fail_after(60):
        await lab.instances.allocate(given)
        ((instance, found),) = lab.machine.instances.items()
        async with lab.call() as caller:
            await caller.line()
            while not found.paused:
                await trio.testing.wait_all_tasks_blocked(0.001)
            await caller.ask(instance)
            status, _, body = await caller.answer()
    assert status == 200
    assert "SERVICE_PORT" in body
