"""What nobody should send, to every door of every daemon; afterwards all of them still answer."""

import json
import os
import re
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import httpx
import pytest
import trio
from pydantic import BaseModel

from overlay.allocation import ALLOCATE_PROTOCOL, AllocateReply, AllocateRequest
from overlay.calls import Caller, CallRefused
from overlay.errors import StreamCut
from overlay.framing import FramedStream, encode_varint
from overlay.gossip import GOSSIP_PROTOCOL
from overlay.host import Host, open_host
from overlay.identity import Identity
from overlay.names import PeerId, ServiceName
from overlay.passphrase import network_keys
from overlay.registry_messages import REGISTRY_PROTOCOL, Add, Added, Found, Get
from overlay.revision import Revision, SignedRevision
from overlay.spec import ServiceSpec
from overlay.tls import open_tls

pytestmark = pytest.mark.slow

TIMEOUT_S = 30.0
PSK = "a passphrase for this test"
LONG = b"x" * 200_000


@pytest.fixture(scope="module")
def slow_head(process_network: Any) -> Iterator[socket.socket]:
    """A client that began a request before all tests and never ends it."""
    with socket.create_connection(("127.0.0.1", process_network.port())) as sock:
        sock.sendall(b"GET /slow HTTP/1.1\r\nHo")
        yield sock


@pytest.fixture(scope="module")
def service(process_network: Any, slow_head: socket.socket) -> str:
    """The name of a service that runs."""
    name: str = process_network.add_echo_process()
    assert httpx.get(process_network.url(name), timeout=TIMEOUT_S).status_code == 200
    return name


@pytest.fixture
def network(process_network: Any, service: str) -> Iterator[Any]:
    """The module's network; after each test all daemons are still the same and still answer."""
    yield process_network
    assert {n: d.process.poll() for n, d in process_network.running.items()} == dict.fromkeys(
        process_network.running
    )
    assert httpx.get(process_network.url(service), timeout=TIMEOUT_S).status_code == 200
    process_network.no_traceback()


# HTTP


def exchange_raw(port: int, request: bytes, *, end: bool = False) -> bytes:
    """Send bytes and return all that comes until the other end closes, or says nothing for 3 s."""
    answer = b""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=3) as sock,
        suppress(OSError),  # it may be refused in the middle of any of these
    ):
        sock.sendall(request)
        if end:
            sock.shutdown(socket.SHUT_WR)
        while data := sock.recv(65536):
            answer += data
    return answer


MALFORMED = {
    "no HTTP": b"GARBAGE\r\n\r\n",
    "binary": bytes(range(256)) * 4 + b"\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
    "unknown version": b"GET /{name} HTTP/3.7\r\nHost: localhost\r\n\r\n",
    "no Host": b"GET /{name} HTTP/1.1\r\n\r\n",
    "two Hosts": b"GET /{name} HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n",
    "space before colon": b"GET /{name} HTTP/1.1\r\nHost : localhost\r\n\r\n",
    "folded line": b"GET /{name} HTTP/1.1\r\nHost: localhost\r\nA: b\r\n c\r\n\r\n",
    "NUL in a field": b"GET /{name} HTTP/1.1\r\nHost: localhost\r\nA: b\x00c\r\n\r\n",
    "bare CR": b"GET /{name} HTTP/1.1\r\nHost: localhost\r\nA: b\rc\r\n\r\n",
    "space in the target": b"GET /{name} /x HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "control character in the target": b"GET /{name}\x01 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "CL and TE": b"POST /{name}/echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 6\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nG",
    "two lengths": b"POST /{name}/echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n"
    b"Content-Length: 2\r\n\r\nab",
    "signed length": b"POST /{name}/echo HTTP/1.1\r\nHost: localhost\r\n"
    b"Content-Length: +1\r\n\r\na",
    "endless length": b"POST /{name}/echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: "
    + b"9" * 50
    + b"\r\n\r\n",
    "unknown coding": b"POST /{name}/echo HTTP/1.1\r\nHost: localhost\r\n"
    b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "chunked twice": b"POST /{name}/echo HTTP/1.1\r\nHost: localhost\r\n"
    b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "hidden coding": b"POST /{name}/echo HTTP/1.1\r\nHost: localhost\r\n"
    b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "chunk size": b"POST /{name}/echo HTTP/1.1\r\nHost: localhost\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\n",
    "chunk end": b"POST /{name}/echo HTTP/1.1\r\nHost: localhost\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n5\r\nhelloXX0\r\n\r\n",
    "tunnel": b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\n\r\n",
}


@pytest.mark.parametrize("shape", MALFORMED)
def test_a_malformed_request_is_refused_and_the_connection_ends(
    network: Any, service: str, shape: str
) -> None:
    smuggled = f"GET /{service}/smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    request = MALFORMED[shape].replace(b"{name}", service.encode()) + smuggled
    answer = exchange_raw(network.port(), request)
    status = int(answer.split()[1])
    assert status in {400, 404, 405, 414, 501, 505}, answer[:200]
    assert b"smuggled" not in answer
    assert len(re.findall(rb"HTTP/1.1 \d", answer)) == 1, "nothing after it was a request"


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /x HTTP/1.1\r\nHost: localhost\r\nA: " + LONG + b"\r\n\r\n", 431),
        (b"GET /x HTTP/1.1\r\nHost: localhost\r\n" + b"A: b\r\n" * 20_000 + b"\r\n", 431),
        (b"GET /" + LONG + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 414),
    ],
    ids=["long field", "many fields", "long target"],
)
def test_an_oversized_head_is_refused(network: Any, head: bytes, status: int) -> None:
    answer = exchange_raw(network.port(), head)
    assert int(answer.split()[1]) == status


@pytest.mark.parametrize(
    "path",
    [
        *("/..", "/../etc/passwd", "/a..b/x", "/%2e%2e/x", "/%2E%2e%2fetc", "/%2F", "/a%2Fb"),
        *(
            "/%00",
            "/a%0d%0ab",
            "/%01",
            "/%7f",
            "/%",
            "/%zz",
            "/%C3%A9",
            "/%ff",
            "/A",
            "/a%20",
        ),
        *("/" + "a" * 64, "/" + "a" * 8000, "//", "/", "/.", "/-", "/?", "*"),
    ],
)
def test_what_is_no_name_is_answered_clearly(network: Any, path: str) -> None:
    request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    answer = exchange_raw(network.port(), request.encode())
    head, _, body = answer.partition(b"\r\n\r\n")
    assert int(head.split()[1]) in {400, 404}, answer[:200]
    assert body.strip(), "the answer says what is wrong"
    assert head.count(b"\r\n\r\n") == 0
    assert b"\r\nb" not in head, "nothing of the name gets into the answer's head"


def test_a_client_that_ends_in_the_middle_of_a_head_is_let_go(network: Any) -> None:
    answer = exchange_raw(network.port(), b"GET /x HTTP/1.1\r\nHos", end=True)
    assert answer == b"" or int(answer.split()[1]) == 400


def test_a_client_that_ends_in_the_middle_of_a_body_is_let_go(network: Any, service: str) -> None:
    request = f"POST /{service}/count HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nx"
    answer = exchange_raw(network.port(), request.encode(), end=True)
    assert answer == b"" or int(answer.split()[1]) in {400, 502}


def test_a_request_for_another_site_is_not_answered(network: Any, service: str) -> None:
    url = network.url(service)
    rebound = httpx.get(url, headers={"Host": "evil.example"}, timeout=TIMEOUT_S)
    assert rebound.status_code == 421
    sent_by = {"Sec-Fetch-Site": "cross-site"}
    assert httpx.get(url, headers=sent_by, timeout=TIMEOUT_S).status_code == 403


# the overlay, as a member


@pytest.fixture
async def member() -> Any:
    """A host that knows the passphrase, and no good manners."""
    async with open_host(Identity.generate(), [], psk=network_keys(PSK).psk) as host:
        host.handle(GOSSIP_PROTOCOL, _keep_up_gossip)
        yield host


async def _keep_up_gossip(_: PeerId, stream: FramedStream) -> None:
    """Answer probes, so that daemons keep the connection."""
    while (frame := await stream.receive()) is not None:
        message = json.loads(frame)
        if message["kind"] == "probe":
            ack = {"kind": "ack", "sequence": message["sequence"]}
            await stream.send(json.dumps(ack).encode())


async def met(host: Host, network: Any, daemon: str) -> PeerId:
    """Connect to a daemon of the network; return who it is."""
    address = network.commands[daemon][4]
    where, _, port = address.rpartition(":")
    return await host.connect(None, f"/ip4/{where}/tcp/{port}", timeout_s=TIMEOUT_S)


MESSAGES = {
    "no JSON": b"\xff\xfe not json",
    "no object": b"[]",
    "empty object": b"{}",
    "null": b"null",
    "deep": b"[" * 200_000,
    "deep object": b'{"kind":' * 50_000,
    "large number": b'{"kind":"probe","sequence":' + b"9" * 100_000 + b"}",
    "wrong types": b'{"kind":"records","records":[1,null,{"signer":[]}],"op":"add","revision":7}',
    "not signed": b'{"kind":"records","op":"add","records":[{"signer":"x","payload":"!",'
    b'"signature":"!"}],"revision":{"signer":"x","payload":"eA==","signature":"eA=="}}',
    "half a surrogate": b'{"kind":"\\ud800","op":"\\udfff","name":"\\ud800"}',
    "unknown kind": b'{"kind":"nonsense","op":"nonsense"}',
    "name": b'{"op":"get","name":"../../etc/passwd\\u0000"}',
    "four megabytes": b'{"op":"get","name":"' + b"x" * 4_000_000 + b'"}',
}
DOORS = [
    ("bootstrap", GOSSIP_PROTOCOL),
    ("proxy", GOSSIP_PROTOCOL),
    ("allocator", GOSSIP_PROTOCOL),
    ("registry", GOSSIP_PROTOCOL),
    ("allocator", ALLOCATE_PROTOCOL),
    ("registry", REGISTRY_PROTOCOL),
]


@pytest.mark.parametrize(("daemon", "protocol"), DOORS)
async def test_messages_that_make_no_sense_are_refused(
    network: Any, member: Host, daemon: str, protocol: str
) -> None:
    peer = await met(member, network, daemon)
    for message in MESSAGES.values():
        with trio.fail_after(TIMEOUT_S):
            stream = await member.open_stream(peer, protocol)
            await answer_to(stream, [message])


@pytest.mark.parametrize(("daemon", "protocol"), DOORS)
async def test_frames_that_are_none_end_their_stream_only(
    network: Any, member: Host, daemon: str, protocol: str
) -> None:
    peer = await met(member, network, daemon)
    frames = {
        "cut": encode_varint(1000) + b"abc",
        "ten megabytes": encode_varint(10_000_000) + bytes(10_000_000),
        "endless varint": b"\xff" * 100,
        "garbage": bytes(range(255, 0, -1)) * 100,
    }
    for frame in frames.values():
        with trio.fail_after(TIMEOUT_S):
            stream = await member.open_stream(peer, protocol)
            with suppress(StreamCut):
                await stream._stream.write(frame)
            await stream.aclose()
    with trio.fail_after(TIMEOUT_S):
        assert await member.open_stream(peer, protocol) is not None


async def answer_to(stream: FramedStream, messages: list[bytes]) -> None:
    """Send what makes no sense; take any answer, or the stream's end."""
    with suppress(StreamCut):
        for message in messages:
            await stream.send(message)
        with trio.move_on_after(0.3):
            await stream.receive()
    await stream.aclose()


async def test_four_megabytes_of_definition_are_refused_with_the_limit(
    network: Any, member: Host
) -> None:
    peer = await met(member, network, "registry")
    owner = Identity.generate()
    spec = ServiceSpec(process="true", env={f"A{n}": "x" * 4096 for n in range(200)})
    signed = SignedRevision.sign(owner, Revision(name=ServiceName("large"), number=1, spec=spec))
    with pytest.raises(CallRefused, match="65536 are allowed"):
        await call(member, peer, REGISTRY_PROTOCOL, Add(revision=signed.signed), Added)
    with pytest.raises(CallRefused):
        await call(member, peer, REGISTRY_PROTOCOL, Get(name="large"), Found)


def test_ten_megabytes_of_configuration_are_refused_in_one_line(network: Any) -> None:
    file = network.daemons.folder / "large.json"
    file.write_text('{"env": {"A": "' + "x" * 10_000_000 + '"}}')
    refused = network.registry_cli(
        "add", "--conf", str(file), "--process", "true", "large", check=False
    )
    assert refused.returncode in {1, 2}
    assert len(refused.stderr.strip().splitlines()) == 1, refused.stderr[:500]
    assert "large.json" in refused.stderr


async def call(
    host: Host, peer: PeerId, protocol: str, request: BaseModel, reply: type[Any]
) -> Any:
    with trio.fail_after(TIMEOUT_S):
        return await Caller(host).call(peer, protocol, request, reply, timeout_s=TIMEOUT_S)


async def allocate(host: Host, peer: PeerId, revision: Any) -> str:
    """Ask for an instance and return the refusal's code."""
    with pytest.raises(CallRefused) as refused:
        await call(host, peer, ALLOCATE_PROTOCOL, AllocateRequest(revision=revision), AllocateReply)
    assert refused.value.text
    return refused.value.code


async def test_an_allocator_runs_nothing_that_its_owner_did_not_sign(
    network: Any, member: Host, service: str
) -> None:
    allocator = await met(member, network, "allocator")
    registry = await met(member, network, "registry")
    found = await call(member, registry, REGISTRY_PROTOCOL, Get(name=service), Found)
    known = SignedRevision.verified(found.revision)
    assert known.revision.spec is not None
    marker = network.daemons.folder / "was-run"
    evil = ServiceSpec(process=f"touch {marker}")
    stranger = Identity.generate()

    changed = known.revision.model_copy(update={"spec": evil, "number": known.revision.number + 1})
    payload = changed.model_dump_json(exclude_defaults=True).encode()
    forged = known.signed.model_copy(update={"payload": payload})
    assert await allocate(member, allocator, forged) == "bad_revision"

    stolen = SignedRevision.sign(stranger, changed).signed
    assert await allocate(member, allocator, stolen) == "bad_revision"
    claimed = stolen.model_copy(update={"signer": known.owner})
    assert await allocate(member, allocator, claimed) == "bad_revision"

    own = Revision(name=ServiceName("strangers-own"), number=1, spec=evil)
    unheard = SignedRevision.sign(stranger, own).signed
    assert await allocate(member, allocator, unheard) == "bad_revision", "no registry knows it"

    empty = Revision(name=ServiceName("empty"), number=1, spec=ServiceSpec())
    nothing = SignedRevision.sign(stranger, empty).signed
    assert await allocate(member, allocator, nothing) == "bad_revision"
    assert not marker.exists()


async def test_a_registry_gives_a_name_to_nobody_but_its_owner(
    network: Any, member: Host, service: str
) -> None:
    registry = await met(member, network, "registry")
    found = await call(member, registry, REGISTRY_PROTOCOL, Get(name=service), Found)
    known = SignedRevision.verified(found.revision).revision
    stolen = known.model_copy(update={"number": known.number + 1})
    signed = SignedRevision.sign(Identity.generate(), stolen).signed
    with pytest.raises(CallRefused) as refused:
        await call(member, registry, REGISTRY_PROTOCOL, Add(revision=signed), Added)
    assert refused.value.code == "not_owner"


# TCP ports, as anybody


GARBAGE = {
    "nothing": b"",
    "HTTP": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "multistream in the clear": b"\x13/multistream/1.0.0\n\x07/noise\n",
    "random": os.urandom(65536),
    "ten megabytes": bytes(10_000_000),
}


@pytest.mark.parametrize("daemon", ["bootstrap", "registry", "allocator", "proxy"])
def test_garbage_on_the_overlays_port_gets_no_byte_of_meaning(network: Any, daemon: str) -> None:
    port = int(network.commands[daemon][4].rpartition(":")[2])
    for garbage in GARBAGE.values():
        answer = exchange_raw(port, garbage, end=True)
        assert b"/noise" not in answer
        assert b"HTTP" not in answer


def test_the_gateway_speaks_to_members_only(network: Any) -> None:
    command = network.commands["allocator"]
    port = int(command[command.index("--gateway-listen-addr") + 1].rpartition(":")[2])
    for garbage in GARBAGE.values():
        assert b"MYXO/1" not in exchange_raw(port, garbage, end=True)
    nobody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    nobody.check_hostname, nobody.verify_mode = False, ssl.CERT_NONE
    stranger = open_tls(network_keys("another"), Identity.generate().peer_id).client_context
    stranger.verify_mode = ssl.CERT_NONE
    unlisted = open_tls(network_keys(PSK), Identity.generate().peer_id).client_context
    assert b"OK" not in said_over_tls(port, nobody)
    assert b"OK" not in said_over_tls(port, stranger)
    assert b"OK" not in said_over_tls(port, unlisted), "a certificate that no record names"


def said_over_tls(port: int, context: ssl.SSLContext) -> bytes:
    said = b""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as sock,
        suppress(OSError),
        context.wrap_socket(sock) as tls,
    ):
        tls.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        while data := tls.recv(4096):
            said += data
    return said


# ports that are taken


@pytest.mark.parametrize("which", ["proxy", "overlay", "metrics"])
def test_a_port_that_is_taken_is_named_in_one_line_with_its_holder(
    network: Any, which: str
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        common = ["--bootstrap", network.address, "--psk", PSK, "--ephemeral"]
        command = {
            "proxy": ["proxy", *common, "--p2p-listen-addr", "127.0.0.1:0", str(port)],
            "overlay": ["bootstrap", *common, "--p2p-listen-addr", f"127.0.0.1:{port}"],
            "metrics": [
                *("bootstrap", *common, "--p2p-listen-addr", "127.0.0.1:0"),
                *("--prom-listen-addr", f"127.0.0.1:{port}"),
            ],
        }[which]
        other = str(network.daemons.folder / "other")
        refused = network.daemons.run(*command, timeout_s=TIMEOUT_S, MYXO_STATE_DIR=other)
    assert refused.returncode in {1, 2}
    errors = [line for line in refused.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1, refused.stderr
    assert f"port {port} is already in use by" in errors[0]
    assert f"pid {os.getpid()}" in errors[0]
    assert "Traceback" not in refused.stderr


def test_a_default_metrics_port_that_is_taken_gives_way_and_says_so(daemons: Any) -> None:
    with socket.socket() as taken:
        with suppress(OSError):  # then somebody else has it
            taken.bind(("0.0.0.0", 9100))
            taken.listen()
        founder = daemons("bootstrap", "--psk", PSK, "--p2p-listen-addr", "127.0.0.1:0")
    (moved,) = [line for line in founder.printed().splitlines() if "port.moved" in line]
    assert "9100" in moved
    assert "metrics" in moved


def test_a_head_that_takes_too_long_is_408(network: Any, slow_head: socket.socket) -> None:
    slow_head.settimeout(TIMEOUT_S)
    began = time.monotonic()
    assert slow_head.recv(4096).startswith(b"HTTP/1.1 408 ")
    assert time.monotonic() - began < TIMEOUT_S
