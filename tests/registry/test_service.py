"""The registry daemon on real hosts: its calls, its watch, and which registries go together."""

import functools
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio
from pydantic import BaseModel

from bootstrap.service import run as run_bootstrap
from bootstrap.settings import BootstrapSettings
from overlay.calls import CallRefused
from overlay.definitions import Definitions, RegistryUnreachable, UnknownService
from overlay.errors import AddressTaken, MyxoError, SettingsInvalid, StreamCut
from overlay.identity import Identity
from overlay.names import ServiceName
from overlay.node import Node, open_node
from overlay.records import Role
from overlay.registry_messages import (
    REGISTRY_PROTOCOL,
    Add,
    Added,
    Found,
    Get,
    MemberAdd,
    MemberAdded,
)
from overlay.revision import SignedRevision
from overlay.settings import NodeSettings
from overlay.signed import Signed
from overlay.testing_ports import free_ports
from registry.client import RegistryClient, next_revision
from registry.errors import StoreMisused, StoreUnavailable
from registry.service import run
from registry.settings import RegistrySettings
from registry.testing import EtcdProcess, MakeRevision

HELLO = ServiceName("hello")
LOOPBACK = "127.0.0.1:0"


@pytest.fixture(autouse=True)
async def _bound() -> AsyncIterator[None]:
    with trio.fail_after(90):
        yield


@pytest.fixture
async def bootstrap(tmp_path: Path, nursery: trio.Nursery) -> str:
    """A bootstrap node's address."""
    settings = BootstrapSettings(
        p2p_listen_addr=LOOPBACK, prom_listen_addr=LOOPBACK, state_dir=tmp_path / "bootstrap"
    )
    return (await _started(nursery, run_bootstrap, settings))[0]


async def _started(
    nursery: trio.Nursery, service: Callable[..., Awaitable[None]], settings: NodeSettings
) -> tuple[str, Node]:
    ready, heard = trio.open_memory_channel[Node](1)
    nursery.start_soon(functools.partial(service, settings, ready=ready.send_nowait))
    node = await heard.receive()
    return f"{node.record.addresses[0]}/p2p/{node.peer_id}", node


def _settings(bootstrap: str, state: Path, **fields: object) -> RegistrySettings:
    return RegistrySettings.load(
        {
            "bootstraps": (bootstrap,),
            "p2p_listen_addr": LOOPBACK,
            "prom_listen_addr": LOOPBACK,
            "state_dir": state,
            **fields,
        }
    )


@asynccontextmanager
async def _member(bootstrap: str, state: Path, role: Role = Role.PROXY) -> AsyncIterator[Node]:
    settings = NodeSettings(bootstraps=(bootstrap,), p2p_listen_addr=LOOPBACK, state_dir=state)
    async with open_node(settings, role) as node:
        yield node


async def _meet(node: Node, count: int = 1) -> None:
    while len(node.view.peers(Role.REGISTRY)) < count:
        await node.changed()


async def _until(condition: Callable[[], bool], changed: Callable[[], Awaitable[None]]) -> None:
    while not condition():
        await changed()


async def test_a_service_is_added_and_every_replica_hears_of_it(
    bootstrap: str, tmp_path: Path, nursery: trio.Nursery, alice: Identity, revision: MakeRevision
) -> None:
    await _started(nursery, run, _settings(bootstrap, tmp_path / "registry"))
    async with _member(bootstrap, tmp_path / "proxy") as node, trio.open_nursery() as inner:
        await _meet(node)
        definitions = Definitions(node, tmp_path / "proxy")
        await inner.start(definitions.run)
        client = RegistryClient(node)
        await client.add(revision())
        await _until(lambda: definitions.get(HELLO) is not None, definitions.changed)
        assert definitions.get(HELLO) == revision()
        assert await client.get(HELLO) == revision()
        await client.add(next_revision(alice, HELLO, revision(), None))
        await _until(lambda: definitions.get(HELLO) is None, definitions.changed)
        assert await client.services() == []
        assert len(await client.history(HELLO)) == 2
        inner.cancel_scope.cancel()


async def test_a_replica_outlives_every_registry_and_finds_the_next_one(
    bootstrap: str, tmp_path: Path, nursery: trio.Nursery, revision: MakeRevision
) -> None:
    state = tmp_path / "proxy"
    async with trio.open_nursery() as first:
        await _started(first, run, _settings(bootstrap, tmp_path / "registry"))
        async with _member(bootstrap, state) as node, trio.open_nursery() as inner:
            await _meet(node)
            definitions = Definitions(node, state)
            await inner.start(definitions.run)
            await RegistryClient(node).add(revision())
            await _until(lambda: definitions.get(HELLO) is not None, definitions.changed)
            inner.cancel_scope.cancel()
        first.cancel_scope.cancel()
    async with _member(bootstrap, state) as node, trio.open_nursery() as inner:
        definitions = Definitions(node, state)
        assert definitions.get(HELLO) == revision()
        assert await definitions.resolve(HELLO) == revision()
        with pytest.raises(RegistryUnreachable):
            await definitions.resolve(ServiceName("other"))
        await inner.start(definitions.run)
        await _started(nursery, run, _settings(bootstrap, tmp_path / "registry"))
        await _meet(node)
        await RegistryClient(node).add(revision("other"))
        other = ServiceName("other")
        await _until(lambda: definitions.get(other) is not None, definitions.changed)
        inner.cancel_scope.cancel()


async def test_a_name_newer_than_the_replica_is_asked_for_once_for_all(
    bootstrap: str, tmp_path: Path, nursery: trio.Nursery, revision: MakeRevision
) -> None:
    _, registry = await _started(nursery, run, _settings(bootstrap, tmp_path / "registry"))
    async with _member(bootstrap, tmp_path / "proxy") as node:
        await _meet(node)
        definitions = Definitions(node, None)  # not running: it hears of nothing by itself
        await RegistryClient(node).add(revision())
        found = []

        async def resolve() -> None:
            found.append(await definitions.resolve(HELLO))

        async with trio.open_nursery() as inner:
            for _ in range(20):
                inner.start_soon(resolve)
        assert found == [revision()] * 20
        gets = registry.metrics.get_sample_value(
            "myxo_registry_requests_total", {"method": "get", "result": "ok"}
        )
        assert gets == 1
        with pytest.raises(UnknownService) as unknown:
            await definitions.resolve(ServiceName("helo"))
        assert list(unknown.value.near) == [HELLO]


async def test_refusals_carry_their_reason(
    bootstrap: str, tmp_path: Path, nursery: trio.Nursery, revision: MakeRevision, bob: Identity
) -> None:
    await _started(nursery, run, _settings(bootstrap, tmp_path / "registry"))
    async with _member(bootstrap, tmp_path / "proxy") as node:
        await _meet(node)
        registry = node.view.peers(Role.REGISTRY)[0].peer_id

        async def refused(request: BaseModel, reply: type[BaseModel]) -> CallRefused:
            with pytest.raises(CallRefused) as caught:
                await node.calls.call(registry, REGISTRY_PROTOCOL, request, reply, timeout_s=10)
            return caught.value

        await RegistryClient(node).add(revision())
        stranger = await refused(Add(revision=revision(number=2, owner=bob).signed), Added)
        assert (stranger.code, stranger.details["owner"]) == ("not_owner", revision().owner)
        late = await refused(Add(revision=revision(command="x").signed), Added)
        assert (late.code, late.details["newest"]) == ("conflict", 1)
        forged = Signed(
            signer=revision().owner, payload=revision().signed.payload, signature=b"\0" * 64
        )
        assert (await refused(Add(revision=forged), Added)).code == "bad_revision"
        huge = revision(number=2).signed.model_copy(update={"payload": b"x" * 100_000})
        assert (await refused(Add(revision=huge), Added)).code == "bad_revision"
        for name in ("..", "a%2Fb", "a/b", "a\x00b", "é", ""):
            assert (await refused(Get(name=name), Found)).code == "bad_name"
        member = MemberAdd(name="x", peer_url="http://10.0.0.1:2380")
        assert (await refused(member, MemberAdded)).code == "no_etcd"
        assert (await RegistryClient(node).get(HELLO)) == revision()


class _Anything(BaseModel):
    op: str = "get"
    name: object = None


async def test_nonsense_and_ten_megabytes_do_not_disturb_the_registry(
    bootstrap: str, tmp_path: Path, nursery: trio.Nursery, revision: MakeRevision
) -> None:
    await _started(nursery, run, _settings(bootstrap, tmp_path / "registry"))
    async with _member(bootstrap, tmp_path / "proxy") as node:
        await _meet(node)
        registry = node.view.peers(Role.REGISTRY)[0].peer_id
        await RegistryClient(node).add(revision())
        for name in ({"a": 1}, None, "x" * 3_000_000):
            with pytest.raises(MyxoError):
                await node.calls.call(
                    registry, REGISTRY_PROTOCOL, _Anything(name=name), Found, timeout_s=10
                )
        stream = await node.host.open_stream(registry, REGISTRY_PROTOCOL)
        with suppress(StreamCut):
            await stream._stream.write(b"\x80\xad\xe2\x04" + b"{" * 10_000_000)
        with suppress(StreamCut):
            await stream.receive()
        await stream.aclose()
        assert await RegistryClient(node).get(HELLO) == revision()


async def test_a_second_sqlite_registry_is_refused_with_the_line_to_type(
    bootstrap: str, tmp_path: Path, nursery: trio.Nursery
) -> None:
    await _started(nursery, run, _settings(bootstrap, tmp_path / "one"))
    with pytest.RaisesGroup(
        pytest.RaisesExc(StoreMisused, match=f"--new-etcd-cluster.*--bootstrap {bootstrap}"),
        flatten_subgroups=True,
    ):
        await run(_settings(bootstrap, tmp_path / "two"))


@pytest.mark.etcd
async def test_two_registries_on_one_etcd_serve_the_same_and_cover_for_each_other(
    bootstrap: str,
    tmp_path: Path,
    nursery: trio.Nursery,
    etcd: EtcdProcess,
    revision: MakeRevision,
) -> None:
    async with _member(bootstrap, tmp_path / "proxy") as node, trio.open_nursery() as inner:
        definitions = Definitions(node, None)
        await inner.start(definitions.run)
        async with trio.open_nursery() as first:
            one = _settings(bootstrap, tmp_path / "one", etcd=(etcd.endpoint,))
            await _started(first, run, one)
            two = _settings(bootstrap, tmp_path / "two", etcd=(etcd.endpoint,))
            await _started(nursery, run, two)
            await _meet(node, 2)
            await RegistryClient(node).add(revision())
            await _until(lambda: definitions.get(HELLO) is not None, definitions.changed)
            first.cancel_scope.cancel()
        await _until(lambda: len(node.view.peers(Role.REGISTRY)) == 1, node.changed)
        await RegistryClient(node).add(revision("other"))
        other = ServiceName("other")
        await _until(lambda: definitions.get(other) is not None, definitions.changed)
        inner.cancel_scope.cancel()
    with pytest.RaisesGroup(
        pytest.RaisesExc(StoreMisused, match="registry-service --etcd-ip 127.0.0.1"),
        flatten_subgroups=True,
    ):
        await run(_settings(bootstrap, tmp_path / "three"))


@pytest.mark.etcd
async def test_a_second_machine_joins_the_etcd_of_the_first_through_the_overlay(
    bootstrap: str, tmp_path: Path, revision: MakeRevision
) -> None:
    ports = free_ports(4)
    one = _settings(
        bootstrap,
        tmp_path / "one",
        new_etcd_cluster=True,
        etcd_client_port=ports[0],
        etcd_peer_port=ports[1],
    )
    two = _settings(
        bootstrap,
        tmp_path / "two",
        etcd_ip="127.0.0.1",
        etcd_client_port=ports[2],
        etcd_peer_port=ports[3],
    )
    async with trio.open_nursery() as first:
        await _started(first, run, one)
        for _ in range(2):  # the second time it is a member already, and does not ask again
            async with trio.open_nursery() as second:
                await _started(second, run, two)
                async with _member(bootstrap, tmp_path / "proxy") as node:
                    await _meet(node, 2)
                    client = RegistryClient(node)
                    if await client.get(HELLO) is None:
                        await client.add(revision())
                    assert await client.get(HELLO) == revision()
                second.cancel_scope.cancel()
        first.cancel_scope.cancel()


@pytest.mark.etcd
async def test_a_killed_local_etcd_is_started_again(
    bootstrap: str, tmp_path: Path, nursery: trio.Nursery, revision: MakeRevision
) -> None:
    ports = free_ports(2)
    settings = _settings(
        bootstrap,
        tmp_path / "one",
        new_etcd_cluster=True,
        etcd_client_port=ports[0],
        etcd_peer_port=ports[1],
    )
    await _started(nursery, run, settings)
    async with _member(bootstrap, tmp_path / "proxy") as node:
        await _meet(node)
        client = RegistryClient(node)
        await client.add(revision())
        os.kill(_etcd_pid(tmp_path), signal.SIGKILL)
        refusals = set()
        while (found := await _get_or_refusal(client)) != revision():
            assert isinstance(found, str)
            refusals.add(found)
        assert refusals <= {"unavailable"}
        await client.add(revision(number=2))


async def _get_or_refusal(client: RegistryClient) -> SignedRevision | str | None:
    try:
        return await client.get(HELLO)
    except CallRefused as exc:
        return exc.code


def _etcd_pid(tmp_path: Path) -> int:
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
        except OSError:
            continue
        if command.startswith(b"/usr/bin/etcd\0") and str(tmp_path).encode() in command:
            return int(process.name)
    raise AssertionError("no etcd runs")


@pytest.mark.etcd
async def test_joining_without_a_registry_says_how_to_start_the_first(
    bootstrap: str, tmp_path: Path
) -> None:
    ports = free_ports(2)
    settings = _settings(
        bootstrap,
        tmp_path / "one",
        etcd_ip="127.0.0.1",
        etcd_client_port=ports[0],
        etcd_peer_port=ports[1],
    )
    with pytest.RaisesGroup(
        pytest.RaisesExc(StoreMisused, match="add --new-etcd-cluster"), flatten_subgroups=True
    ):
        await run(settings)


@pytest.mark.etcd
async def test_a_taken_etcd_port_is_named_with_its_holder(bootstrap: str, tmp_path: Path) -> None:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    settings = _settings(bootstrap, tmp_path, new_etcd_cluster=True, etcd_client_port=port)
    with pytest.RaisesGroup(
        pytest.RaisesExc(AddressTaken, match=f"{port}.*pid {os.getpid()}"),
        flatten_subgroups=True,
    ):
        await run(settings)
    await listeners[0].aclose()


@pytest.mark.etcd
async def test_an_address_of_another_machine_is_refused(bootstrap: str, tmp_path: Path) -> None:
    settings = _settings(bootstrap, tmp_path, new_etcd_cluster=True, etcd_ip="192.0.2.1")
    with pytest.RaisesGroup(
        pytest.RaisesExc(SettingsInvalid, match="not an address of this machine"),
        flatten_subgroups=True,
    ):
        await run(settings)


async def test_without_etcd_installed_the_package_is_named(
    bootstrap: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    with pytest.RaisesGroup(
        pytest.RaisesExc(StoreMisused, match="apt install etcd-server"), flatten_subgroups=True
    ):
        await run(_settings(bootstrap, tmp_path, new_etcd_cluster=True))


async def test_an_etcd_that_is_not_there_is_said_at_the_start(
    bootstrap: str, tmp_path: Path
) -> None:
    endpoint = f"http://127.0.0.1:{free_ports(1)[0]}"
    with pytest.RaisesGroup(
        pytest.RaisesExc(StoreUnavailable, match=endpoint), flatten_subgroups=True
    ):
        await run(_settings(bootstrap, tmp_path, etcd=(endpoint,)))


async def test_flags_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    settings = _settings("/x", tmp_path, etcd=("http://127.0.0.1:1",), new_etcd_cluster=True)
    with pytest.raises(SettingsInvalid, match="one or the other"):
        await run(settings)
