"""What only etcd can show: crashes, hangs, compaction, TLS, authentication, another client."""

import base64
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime
from importlib.util import find_spec
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from overlay.names import ServiceName
from overlay.testing_ports import free_ports
from registry import etcd_gateway
from registry.errors import RevisionConflict, StoreMisused, StoreUnavailable
from registry.etcd import EtcdStore, open_etcd
from registry.etcd_gateway import EtcdAccess, EtcdGateway
from registry.testing import EtcdProcess, MakeRevision

pytestmark = pytest.mark.etcd

NETWORK = "00112233aabbccdd"
HELLO = ServiceName("hello")


@pytest.fixture(autouse=True)
async def _bound() -> AsyncIterator[None]:
    with trio.fail_after(60):
        yield


@pytest.fixture
async def store(etcd: EtcdProcess) -> EtcdStore:
    return await open_etcd(EtcdAccess((etcd.endpoint,)), network_id=NETWORK, admin=None)


async def _post(etcd: EtcdProcess, path: str, body: dict[str, Any]) -> dict[str, Any]:
    async with httpx.AsyncClient(trust_env=False) as client:
        reply = await client.post(f"{etcd.endpoint}/v3/{path}", json=body)
        assert reply.status_code == 200, reply.text
        answer: dict[str, Any] = reply.json()
        return answer


async def _compact(etcd: EtcdProcess, revision: int) -> None:
    await _post(etcd, "kv/compaction", {"revision": str(revision), "physical": True})


async def test_a_killed_etcd_is_a_clear_error_and_comes_back(
    etcd: EtcdProcess, store: EtcdStore, revision: MakeRevision
) -> None:
    await store.add(revision())
    etcd.kill()
    with pytest.raises(StoreUnavailable, match=etcd.endpoint):
        await store.add(revision(number=2))
    etcd.start()
    await etcd.wait_until_ready()
    assert await store.get(HELLO) == revision()
    await store.add(revision(number=2))


async def test_a_hung_etcd_is_an_error_in_bounded_time(etcd: EtcdProcess, store: EtcdStore) -> None:
    store._gateway._access = EtcdAccess((etcd.endpoint,), timeout_s=1.0)
    etcd.signal(signal.SIGSTOP)
    with trio.fail_after(60), pytest.raises(StoreUnavailable, match="within 1 s"):
        await store.get(HELLO)
    etcd.signal(signal.SIGCONT)
    with trio.fail_after(60):
        while True:
            try:
                assert await store.get(HELLO) is None
                break
            except StoreUnavailable:
                continue


async def test_a_watch_goes_on_after_a_restart_without_a_gap(
    etcd: EtcdProcess, store: EtcdStore, revision: MakeRevision
) -> None:
    async with aclosing(store.watch(0)) as changes:
        await store.add(revision())
        assert (await anext(changes)).revision == revision()
        etcd.kill()
        etcd.start()
        await etcd.wait_until_ready()
        await store.add(revision(number=2))
        await store.add(revision(number=3))
        assert (await anext(changes)).revision == revision(number=2)
        assert (await anext(changes)).revision == revision(number=3)


async def test_a_watch_from_before_a_compaction_still_gives_every_revision(
    etcd: EtcdProcess, store: EtcdStore, revision: MakeRevision
) -> None:
    added = [await store.add(revision(number=n)) for n in range(1, 31)]
    await _compact(etcd, added[-1])
    async with aclosing(store.watch(0)) as changes:
        seen = [await anext(changes) for _ in added]
        await store.add(revision("later"))
        seen.append(await anext(changes))
    assert [c.store_revision for c in seen[:-1]] == added
    assert seen[-1].revision == revision("later")


async def test_a_listing_and_adds_do_not_mind_compaction(
    etcd: EtcdProcess, store: EtcdStore, revision: MakeRevision
) -> None:
    added = await store.add(revision())
    await _compact(etcd, added)
    assert (await store.listing()).revisions == (revision(),)
    with pytest.raises(RevisionConflict):
        await store.add(revision(command="other"))


async def test_a_silent_watch_is_made_anew_and_misses_nothing(
    store: EtcdStore, revision: MakeRevision, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(etcd_gateway, "WATCH_SILENCE_S", 0.25)
    async with trio.open_nursery() as nursery, aclosing(store.watch(0)) as changes:

        async def add_after_some_silences() -> None:
            await trio.sleep(0.6)
            await store.add(revision())

        nursery.start_soon(add_after_some_silences)
        assert (await anext(changes)).revision == revision()


async def test_another_endpoint_is_asked_when_one_is_dead_or_hung(
    etcd: EtcdProcess, revision: MakeRevision
) -> None:
    dead = f"http://127.0.0.1:{free_ports(1)[0]}"
    hung = await trio.open_tcp_listeners(0, host="127.0.0.1")
    silent = f"http://127.0.0.1:{hung[0].socket.getsockname()[1]}"
    access = EtcdAccess((dead, silent, etcd.endpoint), timeout_s=2.0)
    store = await open_etcd(access, network_id=NETWORK, admin=None)
    await store.add(revision())
    async with aclosing(store.watch(0)) as changes:
        assert (await anext(changes)).revision == revision()
    await hung[0].aclose()


async def test_no_endpoint_at_all_names_each() -> None:
    dead = tuple(f"http://127.0.0.1:{port}" for port in free_ports(2))
    with pytest.raises(StoreUnavailable, match=f"{dead[0]}.*{dead[1]}"):
        await open_etcd(EtcdAccess(dead), network_id=NETWORK, admin=None)


async def test_something_else_on_the_port_is_said_to_be_no_etcd() -> None:
    async def answer(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()
            await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, answer, 0)
        endpoint = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        with pytest.raises(StoreUnavailable, match="client port"):
            await open_etcd(EtcdAccess((endpoint,)), network_id=NETWORK, admin=None)
        nursery.cancel_scope.cancel()


async def test_an_endpoint_without_a_scheme_is_refused_with_the_right_form() -> None:
    with pytest.raises(StoreMisused, match="http://HOST:2379"):
        await open_etcd(EtcdAccess(("10.0.0.1:2379",)), network_id=NETWORK, admin=None)


async def test_networks_in_one_etcd_do_not_see_each_other(
    etcd: EtcdProcess, store: EtcdStore, revision: MakeRevision
) -> None:
    await store.add(revision())
    access = EtcdAccess((etcd.endpoint,))
    other = await open_etcd(access, network_id="f" * 16, admin=None)
    assert await other.get(HELLO) is None
    assert (await other.listing()).revisions == ()


async def test_two_registries_on_one_etcd_are_one_store(
    etcd: EtcdProcess, store: EtcdStore, revision: MakeRevision
) -> None:
    access = EtcdAccess((etcd.endpoint,))
    other = await open_etcd(access, network_id=NETWORK, admin=None)
    assert other.store_id == store.store_id
    async with aclosing(other.watch(0)) as changes:
        await store.add(revision())
        assert (await anext(changes)).revision == revision()


async def test_a_key_with_a_lease_ends_with_it(etcd: EtcdProcess) -> None:
    gateway = EtcdGateway(EtcdAccess((etcd.endpoint,)))
    lease = await gateway.grant(60)
    await gateway.put("/leased", b"x", lease=lease)
    assert await gateway.keep_alive(lease) == 60
    assert len((await gateway.read("/leased")).items) == 1
    await gateway.revoke(lease)
    assert (await gateway.read("/leased")).items == ()
    assert await gateway.keep_alive(lease) == 0


async def test_users_are_let_in_by_password_and_a_lost_token_is_renewed(
    etcd: EtcdProcess, revision: MakeRevision
) -> None:
    await _switch_authentication_on(etcd)
    with pytest.raises(StoreMisused, match="--etcd-user"):
        await open_etcd(EtcdAccess((etcd.endpoint,)), network_id=NETWORK, admin=None)
    wrong = EtcdAccess((etcd.endpoint,), user="myxo", password="wrong")
    with pytest.raises(StoreMisused, match="--etcd-user"):
        await open_etcd(wrong, network_id=NETWORK, admin=None)
    right = EtcdAccess((etcd.endpoint,), user="myxo", password="secret")
    store = await open_etcd(right, network_id=NETWORK, admin=None)
    async with aclosing(store.watch(0)) as changes:
        await store.add(revision())
        assert (await anext(changes)).revision == revision()
        etcd.kill()  # simple tokens live in etcd's memory and are gone with it
        etcd.start()
        await etcd.wait_until_ready()
        await store.add(revision(number=2))
        assert (await anext(changes)).revision == revision(number=2)


async def _switch_authentication_on(etcd: EtcdProcess) -> None:
    everything = base64.b64encode(b"\0").decode()
    permission = {"permType": "READWRITE", "key": everything, "range_end": everything}
    for user, role in (("root", "root"), ("myxo", "all")):
        await _post(etcd, "auth/user/add", {"name": user, "password": "secret"})
        await _post(etcd, "auth/role/add", {"name": role})
        await _post(etcd, "auth/user/grant", {"user": user, "role": role})
    await _post(etcd, "auth/role/grant", {"name": "all", "perm": permission})
    await _post(etcd, "auth/enable", {})


async def test_it_works_over_tls_with_certificates_on_both_ends(
    tmp_path: Path, revision: MakeRevision
) -> None:
    ca, cert, key = _certificates(tmp_path)
    process = EtcdProcess(tmp_path / "etcd", tls=(ca, cert, key))
    process.start()
    try:
        await process.wait_until_ready()
        access = EtcdAccess((process.endpoint,), ca=ca, cert=cert, key=key)
        store = await open_etcd(access, network_id=NETWORK, admin=None)
        await store.add(revision())
        async with aclosing(store.watch(0)) as changes:
            assert (await anext(changes)).revision == revision()
        for stranger in (
            EtcdAccess((process.endpoint,), ca=ca),
            EtcdAccess((process.endpoint,), cert=cert, key=key),
        ):
            with pytest.raises(StoreUnavailable):
                await open_etcd(stranger, network_id=NETWORK, admin=None)
    finally:
        process.stop()


async def test_a_certificate_file_that_is_none_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "none.pem"
    access = EtcdAccess(("https://127.0.0.1:1",), ca=missing)
    with pytest.raises(StoreMisused, match=r"none\.pem"):
        await open_etcd(access, network_id=NETWORK, admin=None)


def _certificates(home: Path) -> tuple[Path, Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "etcd")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2100, 1, 1, tzinfo=UTC))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    cert_file, key_file = home / "cert.pem", home / "key.pem"
    cert_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return cert_file, cert_file, key_file


_READ_WITH_ETCD3 = """
import sys, etcd3
client = etcd3.client(host="127.0.0.1", port=int(sys.argv[1]))
value, _ = client.get(sys.argv[2])
sys.stdout.buffer.write(value)
"""

_WRITE_WITH_ETCD3 = """
import sys, etcd3
client = etcd3.client(host="127.0.0.1", port=int(sys.argv[1]))
client.put(sys.argv[2], sys.stdin.buffer.read())
"""


async def _etcd3(program: str, etcd: EtcdProcess, key: str, stdin: bytes = b"") -> bytes:
    """Run the independent client, which cannot be imported beside libp2p, in its own process."""
    environment = os.environ | {"PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "python"}
    done = await trio.run_process(
        [sys.executable, "-c", program, str(etcd.client_port), key],
        env=environment,
        stdin=stdin,
        capture_stdout=True,
        capture_stderr=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


@pytest.mark.skipif(
    find_spec("etcd3") is None and "CI" not in os.environ, reason="etcd3 is not installed"
)
async def test_the_etcd3_client_reads_what_was_written_and_what_it_writes_is_seen(
    etcd: EtcdProcess, store: EtcdStore, revision: MakeRevision
) -> None:
    await store.add(revision())
    prefix = f"/myxo/{NETWORK}/revisions/hello"
    read = await _etcd3(_READ_WITH_ETCD3, etcd, f"{prefix}/{1:012d}")
    assert read == revision().to_json()
    async with aclosing(store.watch(0)) as changes:
        assert (await anext(changes)).revision == revision()
        written = revision(number=2)
        await _etcd3(_WRITE_WITH_ETCD3, etcd, f"{prefix}/{2:012d}", written.to_json())
        assert (await anext(changes)).revision == written
