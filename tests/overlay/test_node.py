import json
from pathlib import Path

import pytest
import trio
import trio.testing

from overlay.compaction import WITHDRAWN_PER_ROUND
from overlay.control import open_control
from overlay.errors import AddressTaken, PeerUnreachable, SettingsInvalid
from overlay.names import InstanceId, ServiceName
from overlay.node import Node, open_node
from overlay.records import InstanceState, Role
from overlay.settings import NodeSettings, key_path

HELLO = ServiceName("hello")


def settings(tmp_path: Path, **fields: object) -> NodeSettings:
    values = {"psk": "secret", "p2p_listen_addr": "127.0.0.1:0", "state_dir": tmp_path, **fields}
    return NodeSettings.model_validate(values)


def publish(node: Node, instance: str) -> None:
    node.set_instance(
        InstanceId(instance),
        service=HELLO,
        revision=1,
        state=InstanceState.READY,
        address="127.0.0.1:1",
        concurrency=5,
    )


def instances(node: Node) -> list[str]:
    return [i.record.id for i in node.view.instances(HELLO)]


async def test_a_node_says_who_and_where_it_is(tmp_path: Path) -> None:
    with trio.fail_after(60):
        async with open_node(settings(tmp_path, hostname="name"), Role.PROXY) as node:
            record = node.record
            assert (record.role, record.host) == (Role.PROXY, "name")
            assert record.certificate == node.tls.pin
            (address,) = record.addresses
            assert address in node.host.listen_addresses()


async def test_a_restarted_node_is_the_same_peer_in_a_later_epoch(tmp_path: Path) -> None:
    with trio.fail_after(60):
        async with open_node(settings(tmp_path), Role.PROXY, name="1") as first:
            pass
        async with open_node(settings(tmp_path), Role.PROXY, name="1") as second:
            assert second.peer_id == first.peer_id
            assert second.epoch > first.epoch
        async with open_node(settings(tmp_path), Role.PROXY, name="2") as other:
            assert other.peer_id != first.peer_id
    assert key_path(tmp_path, Role.PROXY, "1").exists()


async def test_a_node_that_runs_for_months_does_not_fill_others_views(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with open_node(settings(tmp_path, ephemeral=True), Role.ALLOCATOR) as node:
            publish(node, "stays")
            for number in range(5 * WITHDRAWN_PER_ROUND):
                publish(node, f"i{number}")
                node.withdraw_instance(InstanceId(f"i{number}"))
                assert len(node.view.records) <= 2 * WITHDRAWN_PER_ROUND + 2
            assert instances(node) == ["stays"]
            assert not node.view.records.refused


async def test_an_ephemeral_node_leaves_no_key_and_no_epoch(tmp_path: Path) -> None:
    with trio.fail_after(60):
        async with open_node(settings(tmp_path, ephemeral=True), Role.PROXY):
            pass
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


async def test_a_client_leaves_nothing(tmp_path: Path) -> None:
    with trio.fail_after(60):
        async with open_node(settings(tmp_path / "state"), Role.CLIENT):
            pass
    assert list(tmp_path.iterdir()) == []


async def test_the_state_directory_is_its_users_alone(tmp_path: Path) -> None:
    directory = tmp_path / "some" / "where"
    with trio.fail_after(60):
        async with open_node(settings(directory), Role.PROXY):
            assert directory.stat().st_mode & 0o777 == 0o700


async def test_what_can_never_be_dialled_is_refused_at_once(tmp_path: Path) -> None:
    with trio.fail_after(60), pytest.raises(SettingsInvalid, match=r"--bootstrap: '10\.0\.0\.1'"):
        async with open_node(settings(tmp_path, bootstraps=("10.0.0.1",)), Role.PROXY):
            pass


async def test_changes_of_the_own_record_keep_the_rest_and_wake_who_waits(tmp_path: Path) -> None:
    with trio.fail_after(60):
        async with open_node(settings(tmp_path), Role.PROXY) as node:
            before = node.record
            async with trio.open_nursery() as nursery:
                nursery.start_soon(node.changed)
                await trio.testing.wait_all_tasks_blocked()
                node.set_peer(gateway=("1.2.3.4:5",))
            assert node.record.gateway == ("1.2.3.4:5",)
            assert node.record.addresses == before.addresses
            assert node.record.version.newer_than(before.version)


async def test_instances_come_and_go_and_an_unknown_one_is_nothing(tmp_path: Path) -> None:
    with trio.fail_after(60):
        async with open_node(settings(tmp_path), Role.ALLOCATOR) as node:
            publish(node, "i1")
            publish(node, "i2")
            assert instances(node) == ["i1", "i2"]
            node.withdraw_instance(InstanceId("i1"))
            node.withdraw_instance(InstanceId("other"))
            assert instances(node) == ["i2"]


async def test_a_client_listens_nowhere_and_has_no_socket(tmp_path: Path) -> None:
    with trio.fail_after(60):
        async with open_node(settings(tmp_path), Role.CLIENT) as node:
            assert node.record.addresses == ()
            assert list(tmp_path.rglob("*.sock")) == []


async def test_a_client_knows_everybody_and_is_known_to_nobody(tmp_path: Path) -> None:
    with trio.fail_after(20):
        async with open_node(settings(tmp_path, ephemeral=True), Role.BOOTSTRAP) as first:
            address = f"{first.record.addresses[0]}/p2p/{first.peer_id}"
            joining = settings(tmp_path, ephemeral=True, bootstraps=(address,))
            async with (
                open_node(joining, Role.PROXY) as proxy,
                open_node(joining, Role.CLIENT) as client,
            ):
                while len(client.view.peers()) < 2:
                    await client.changed()
                publish(proxy, "i1")
                while instances(client) != ["i1"]:
                    await client.changed()
                for node in (first, proxy):
                    assert client.peer_id not in node.view.known()


async def test_the_control_socket_tells_the_status(tmp_path: Path) -> None:
    with trio.fail_after(60):
        async with open_node(settings(tmp_path), Role.ALLOCATOR, name="x") as node:
            publish(node, "i1")
            node.status = lambda: {"more": 1}
            path = Path(node.record.control)
            assert path == tmp_path / "run" / "allocator-x.sock"
            async with open_control(path, "status") as connection:
                status = json.loads(await connection.receive() or b"")
        assert (status["peer_id"], status["more"]) == (node.peer_id, 1)
        assert [i["id"] for i in status["instances"]] == ["i1"]
        with pytest.raises(PeerUnreachable):
            async with open_control(path, "status"):
                pytest.fail("the socket outlived its node")


async def test_a_given_port_that_is_taken_is_refused_and_a_default_one_moves(
    tmp_path: Path,
) -> None:
    with trio.fail_after(20):
        async with open_node(settings(tmp_path, ephemeral=True), Role.BOOTSTRAP) as first:
            port = first.host.listen_addresses()[0].rsplit("/", 1)[1]
            given = settings(tmp_path, ephemeral=True, p2p_listen_addr=f"127.0.0.1:{port}")
            with pytest.RaisesGroup(AddressTaken, allow_unwrapped=True, flatten_subgroups=True):
                async with open_node(given, Role.PROXY):
                    pytest.fail("it took a port that is taken")
            default = NodeSettings.model_construct(_fields_set=set(), **given.model_dump())
            async with open_node(default, Role.PROXY) as moved:
                assert not moved.host.listen_addresses()[0].endswith(f"/{port}")


async def test_a_state_directory_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        trio.fail_after(60),
        pytest.RaisesGroup(SettingsInvalid, allow_unwrapped=True, flatten_subgroups=True),
    ):
        async with open_node(settings(tmp_path / "file"), Role.PROXY):
            pytest.fail("it started")


async def test_a_second_daemon_of_the_same_name_is_refused(tmp_path: Path) -> None:
    with trio.fail_after(60):
        async with open_node(settings(tmp_path), Role.PROXY):
            with pytest.RaisesGroup(AddressTaken, flatten_subgroups=True):
                async with open_node(settings(tmp_path), Role.PROXY):
                    pytest.fail("it started")
