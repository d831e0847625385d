from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
import trio

from bootstrap.service import print_addresses, run
from bootstrap.settings import BootstrapSettings
from overlay.node import Node, open_node
from overlay.records import Role
from overlay.settings import NodeSettings


def settings(tmp_path: Path, *bootstraps: str) -> BootstrapSettings:
    return BootstrapSettings(
        bootstraps=bootstraps,
        psk="secret",
        p2p_listen_addr="127.0.0.1:0",
        prom_listen_addr="127.0.0.1:0",
        ephemeral=True,
        state_dir=tmp_path,
    )


@asynccontextmanager
async def running(tmp_path: Path, *bootstraps: str) -> AsyncIterator[Node]:
    ready: list[Node] = []
    said = trio.Event()

    def is_ready(node: Node) -> None:
        ready.append(node)
        said.set()

    async def serve() -> None:
        await run(settings(tmp_path, *bootstraps), ready=is_ready)

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            await said.wait()
            yield ready[0]
            nursery.cancel_scope.cancel()


def address_of(node: Node) -> str:
    return f"{node.record.addresses[0]}/p2p/{node.peer_id}"


async def test_its_metrics_hold_the_rtt_to_whoever_joined(tmp_path: Path) -> None:
    async with running(tmp_path / "a") as first:
        joining = NodeSettings(
            bootstraps=(address_of(first),),
            psk="secret",
            p2p_listen_addr="127.0.0.1:0",
            ephemeral=True,
            state_dir=tmp_path / "b",
        )
        async with open_node(joining, Role.PROXY) as proxy:
            while not [p for p in first.view.peers() if p.rtt_s is not None]:
                await first.changed()
            async with httpx.AsyncClient(trust_env=False) as client:
                answer = await client.get(f"http://127.0.0.1:{first.metrics_port}/metrics")
        labels = f'{{host="{first.hostname}",targetHost="{proxy.peer_id}"}}'
        for name in ("ping_rtt", "ping_ewma_rtt"):
            assert f"{name}{labels} " in answer.text
        assert 'myxo_peers{state="alive"} 1.0' in answer.text
        assert "process_resident_memory_bytes" in answer.text


async def test_a_second_bootstrap_joins_the_first(tmp_path: Path) -> None:
    async with (
        running(tmp_path / "a") as first,
        running(tmp_path / "b", address_of(first)) as second,
    ):
        assert [p.peer_id for p in second.view.peers(Role.BOOTSTRAP)] == [first.peer_id]


async def test_it_prints_what_others_pass_to_bootstrap_one_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with running(tmp_path) as node:
        print_addresses(node)
        printed = capsys.readouterr()
        lines = [line for line in printed.out.split("\n") if line.startswith("/ip")]
        assert lines == [address_of(node)]
        assert "P2P addresses" in printed.err
