"""What a definition asks for is done by a real Envoy, as it is told; each fails untold."""

import ssl
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import trio

from overlay.balancing import Balancing
from overlay.http.connection import ServerConnection
from overlay.http.h2_server import ServerStream, serve_http2
from overlay.http.head import RequestHead
from overlay.http.tls_stream import TlsStream
from overlay.http.transport import transport
from overlay.names import PeerId
from overlay.spec import ServiceSpec
from overlay.tls import ALPN_UNGREETED, open_tls
from proxy.route.exposure import exposure_of
from proxy.testing_certificates import Authority
from tests.proxy.envoy.stage import (
    KEYS,
    Server,
    Stage,
    answering,
    beside,
    counted,
    never,
    of,
    open_stage,
)

pytestmark = pytest.mark.slow

BY_TURNS = Balancing(name="round_robin")


@pytest.fixture
async def stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    async with open_stage(Path(tmp_path_factory.mktemp("e"))) as made:
        yield made


@pytest.mark.parametrize(("eject_after", "most"), [(3, 3), (0, 8)])
async def test_an_instance_that_fails_in_a_row_is_left_alone(
    stage: Stage, eject_after: int, most: int
) -> None:
    bad, good = await stage.instance(answering(500)), await stage.instance(answering())
    spec = ServiceSpec(process="x", policy=BY_TURNS, eject_after=eject_after)
    async with await stage.play(of(spec, bad, good)) as client:
        answers = [await client.get("x") for _ in range(16)]
    assert counted(answers) == {500: most, 200: 16 - most}
    assert len(bad.heads) == most


async def test_the_last_instance_is_not_ejected(stage: Stage) -> None:
    bad = await stage.instance(answering(500))
    async with await stage.play(of(ServiceSpec(process="x", eject_after=2), bad)) as client:
        answers = [await client.get("x") for _ in range(10)]
    assert counted(answers).keys() <= {500, 299}
    assert counted(answers)[500] >= 2


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("idempotent", [False, True])
@pytest.mark.parametrize("status", [503, 502])
async def test_a_status_to_be_tried_again_goes_to_the_proxy_where_that_is_safe(
    stage: Stage, method: str, idempotent: bool, status: int
) -> None:
    busy = await stage.instance(answering(status))
    spec = ServiceSpec(process="x", retry_statuses=(503,), idempotent=idempotent, eject_after=0)
    async with await stage.play(of(spec, busy)) as client:
        answer = await client.request(method, "x")
    again = status == 503 and (idempotent or method == "GET")
    assert answer.status_code == (299 if again else status)
    assert [head.target for head in stage.proxy.heads] == ([b"/x"] if again else [])
    assert stage.proxy.field(b"myxo-service") == ([b"hello"] if again else [])


async def test_of_what_fails_only_a_share_is_tried_again(stage: Stage) -> None:
    """Beyond some that may always be."""
    release = trio.Event()

    async def held(client: ServerConnection, head: RequestHead) -> None:
        await release.wait()
        await client.respond(299, [], head.target)

    stage.proxy.answer = held
    busy = await stage.instance(answering(503))
    spec = ServiceSpec(process="x", retry_statuses=(503,), retry_percent=1, eject_after=0)
    answers: list[httpx.Response] = []
    async with await stage.play(of(spec, busy)) as client, trio.open_nursery() as nursery:

        async def ask() -> None:
            answers.append(await client.get("x"))
            if len(answers) == 20:
                release.set()

        for _ in range(30):
            nursery.start_soon(ask)
    assert counted(answers) == {503: 20, 299: 10}


async def test_a_request_gets_the_time_that_its_definition_gives_it(stage: Stage) -> None:
    slow = await stage.instance(never)
    spec = ServiceSpec(process="x", timeout_s=0.2)
    async with await stage.play(of(spec, slow)) as client:
        assert (await client.get("x")).status_code == 504
    assert slow.field(b"x-request-timeout") == [b"0.200"]


@pytest.mark.parametrize(
    ("policy", "weights", "least", "most"),
    [
        ("weighted_round_robin", (100, 300), 9, 11),
        ("weighted_random", (100, 300), 9, 11),
        ("weighted_least_request", (100, 300), 9, 11),
        ("round_robin", (1, 1), 20, 20),
    ],
)
async def test_shares_are_as_the_weights(
    stage: Stage, policy: str, weights: tuple[int, int], least: int, most: int
) -> None:
    small, large = await stage.instance(answering()), await stage.instance(answering())
    spec = ServiceSpec(process="x", policy=Balancing(name=policy))
    async with await stage.play(of(spec, small, large, weights=weights)) as client:
        answers = [await client.get("x") for _ in range(40)]
    assert counted(answers) == {200: 40}
    assert least <= len(small.heads) <= most


async def test_the_least_busy_instance_gets_the_next_request(stage: Stage) -> None:
    tell, arrived = trio.open_memory_channel[bool](1000)

    async def stick(client: ServerConnection, head: RequestHead) -> None:
        await tell.send(True)
        await never(client, head)

    async def serve(client: ServerConnection, head: RequestHead) -> None:
        await client.respond(200, [], head.target)
        await tell.send(False)

    stuck, free = await stage.instance(stick), await stage.instance(serve)
    spec = ServiceSpec(process="x", policy=Balancing(name="least_request"))
    async with await stage.play(of(spec, stuck, free)) as client, trio.open_nursery() as nursery:

        async def ask() -> bool:
            nursery.start_soon(client.get, "x")
            return await arrived.receive()

        while not await ask():
            pass
        seen = [await ask() for _ in range(100)]
        # Of two that are drawn both are it one time in four; by turns it would be one in two.
        assert sum(seen) < 45
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("policy", ["maglev", "ring_hash"])
@pytest.mark.parametrize("hashed", ["header:X-User", "cookie:user"])
async def test_who_is_hashed_comes_to_the_same_instance(
    stage: Stage, policy: str, hashed: str
) -> None:
    kind, name = hashed.split(":")
    one, other = await stage.instance(answering()), await stage.instance(answering())
    spec = ServiceSpec(process="x", policy=Balancing(name=policy, hash=hashed))
    async with await stage.play(of(spec, one, other)) as client:
        for _ in range(3):
            for user in range(16):
                said = {name: f"u{user}"} if kind == "header" else {"Cookie": f"{name}=u{user}"}
                assert (await client.get(f"{user}", headers=said)).status_code == 200
    served = [{head.target for head in server.heads} for server in (one, other)]
    assert all(served), "both have some"
    assert not served[0] & served[1], "each user has one"


async def test_clients_are_hashed_by_their_address(stage: Stage) -> None:
    one, other = await stage.instance(answering()), await stage.instance(answering())
    spec = ServiceSpec(process="x", policy=Balancing(name="maglev"))
    async with await stage.play(of(spec, one, other)) as client:
        for _ in range(10):
            await client.get("x")
    assert {len(one.heads), len(other.heads)} == {0, 10}


async def test_an_instance_of_http2_is_spoken_to_by_it(stage: Stage) -> None:
    versions: list[int] = []

    async def answer(stream: ServerStream, head: RequestHead) -> None:
        versions.append(2)
        await stream.respond(200, [(b"X-Via", b"h2")], head.target)

    server = Server(answering())

    async def serve(stream: trio.SocketStream) -> None:
        await serve_http2(transport(stream), answer, stopping=trio.Event())

    server.port = await stage.listen(serve)
    async with await stage.play(of(ServiceSpec(process="x", protocol="h2c"), server)) as client:
        answer_ = await client.get("x?y")
    assert (answer_.status_code, answer_.headers["x-via"], answer_.text) == (200, "h2", "/x?y")
    assert versions == [2]


@pytest.mark.parametrize("host", ["a.example", "b.example"])
async def test_an_edge_shows_the_certificate_that_is_asked_for_and_wants_the_clients(
    stage: Stage, host: str, tmp_path: Path
) -> None:
    ours = Authority(tmp_path)
    files = [ours.issue(name, name) for name in ("a.example", "b.example")]
    pems = [key.read_bytes() + cert.read_bytes() for cert, key in files]
    stage.front = replace(stage.front, scheme="https", exposure=exposure_of(["hello"]))
    instance = await stage.instance(answering())
    await stage.play(of(ServiceSpec(process="x"), instance), pems, ours.file.read_text())
    context = ssl.create_default_context(cafile=str(ours.file))
    asked = f"GET /hello/x HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()

    async def answer() -> bytes:
        tcp = await trio.open_tcp_stream("127.0.0.1", stage.front.port)
        async with trio.SSLStream(tcp, context, server_hostname=host) as stream:
            await stream.send_all(asked)
            return b"".join([part async for part in stream])

    with pytest.raises(trio.BrokenResourceError):
        await answer()
    context.load_cert_chain(*ours.issue("client"))
    assert (await answer()).startswith(b"HTTP/1.1 200 OK\r\n")
    assert len(instance.heads) == 1


# other machines


async def gateway(stage: Stage, server: Server, *, pinned: bool = True) -> tuple[Server, str]:
    """Start a gateway; return it and the pin that its record names."""
    tls = open_tls(KEYS, PeerId("far"))

    async def serve(stream: trio.SocketStream) -> None:
        ours = TlsStream(stream, tls.server_context, server_side=True)
        try:
            await ours.do_handshake()
            if ours.alpn == ALPN_UNGREETED:
                await server.serve(ours)
        except trio.BrokenResourceError:
            pass
        finally:
            await trio.aclose_forcefully(ours)

    server.port = await stage.listen(serve)
    return server, tls.pin if pinned else open_tls(KEYS, PeerId("far")).pin


async def test_a_gateway_is_told_what_to_pick_among_and_shown_who_asks(stage: Stage) -> None:
    far, pin = await gateway(stage, Server(answering(200, (b"Myxo-In-Flight", b"1"))))
    async with await stage.play(beside(of(ServiceSpec(process="x")), far, pin)) as client:
        answer = await client.get("x?y", headers={"Myxo-Any-Of": "forged/1"})
    assert (answer.status_code, answer.text) == (200, "/x?y")
    assert far.field(b"myxo-any-of") == [b"hello/1"]
    assert "myxo-in-flight" not in answer.headers
    assert not stage.proxy.heads


async def test_a_gateway_that_shows_another_key_gets_nothing(stage: Stage) -> None:
    far, pin = await gateway(stage, Server(answering()), pinned=False)
    async with await stage.play(beside(of(ServiceSpec(process="x")), far, pin)) as client:
        answer = await client.post("x", content=b"secret")
    assert (answer.status_code, far.heads) == (299, [])


async def test_what_a_gateway_refuses_goes_to_the_proxy(stage: Stage) -> None:

    async def refuse(client: ServerConnection, head: RequestHead) -> None:
        assert b"".join([part async for part in client.body]) == b"once"
        await client.respond(421, [(b"Myxo-Refused", b"gone")], head.target)

    far, pin = await gateway(stage, Server(refuse))
    async with await stage.play(beside(of(ServiceSpec(process="x")), far, pin)) as client:
        answer = await client.post("x", content=b"once")
    assert (answer.status_code, len(far.heads)) == (299, 1)
    assert [head.target for head in stage.proxy.heads] == [b"/x"]


async def test_a_machine_that_is_nearer_gets_more(stage: Stage) -> None:
    far, pin = await gateway(stage, Server(answering()))
    here = await stage.instance(answering())
    mapped = beside(of(ServiceSpec(process="x"), here, weights=[7]), far, pin)
    async with await stage.play(mapped) as client:
        answers = [await client.get("x") for _ in range(40)]
    assert counted(answers) == {200: 40}
    assert 4 <= len(far.heads) <= 6


async def test_what_is_under_way_to_a_dead_machine_goes_elsewhere_at_once(stage: Stage) -> None:
    arrived = trio.Event()

    async def stick(client: ServerConnection, head: RequestHead) -> None:
        arrived.set()
        await never(client, head)

    far, pin = await gateway(stage, Server(stick))
    answers: list[httpx.Response] = []
    mapped = beside(of(ServiceSpec(process="x")), far, pin)
    async with await stage.play(mapped) as client, trio.open_nursery() as nursery:

        async def ask() -> None:
            answers.append(await client.get("x"))

        nursery.start_soon(ask)
        await arrived.wait()
        assert stage.envoy is not None
        stage.envoy.cut([("127.0.0.1", far.port)])
    assert counted(answers) == {299: 1}
