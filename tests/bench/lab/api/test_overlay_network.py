"""What the API sees of a real network of load hosts, from its thread beside the server."""

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
import trio

from bench.lab.api.network import LabNetwork, NotJoined
from bench.lab.api.overlay_network import open_network
from bench.lab.api.settings import ApiSettings
from bench.lab.errors import NoSuchHost
from bench.lab.hosts.testing import Network
from bench.lab.hosts.testing import open_network as open_hosts

pytestmark = pytest.mark.slow

POLL_S = 0.05


@pytest.fixture
async def hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Network]:
    """A network whose admin is this user; load hosts join as a test asks."""
    monkeypatch.setenv("MYXO_CONFIG_DIR", str(tmp_path / "config"))
    with trio.fail_after(90):
        async with open_hosts(tmp_path) as opened:
            yield opened


def settings(hosts: Network, **given: object) -> ApiSettings:
    values = hosts.nodes.settings("api").model_dump(exclude_unset=True)
    return ApiSettings.model_validate(values | given)


async def seen(network: LabNetwork, *names: str) -> Sequence[str]:
    """Return the hosts once they are these."""
    while True:
        try:
            if (there := await network.hosts()) == list(names):
                return there
        except NotJoined:
            pass
        await trio.sleep(POLL_S)


async def test_load_hosts_are_seen_as_they_come_and_go(hosts: Network) -> None:
    async with open_network(settings(hosts)) as network:
        assert network.named
        await seen(network)
        with pytest.raises(NoSuchHost):
            await network.route({"do": "list"})
        await hosts.host("h2")
        await hosts.host("h1")
        await seen(network, "h1", "h2")
        await hosts.lose("h2")
        await seen(network, "h1")


async def test_a_network_that_does_not_answer_is_said_and_does_not_hold_the_api_up(
    hosts: Network,
) -> None:
    nobody = "/ip4/127.0.0.1/tcp/1/p2p/" + hosts.nodes.admin.peer_id
    async with open_network(settings(hosts, bootstraps=(nobody,))) as network:
        with pytest.raises(NotJoined, match="tcp/1"):
            await network.hosts()


async def test_without_a_bootstrap_node_the_api_is_in_no_network(hosts: Network) -> None:
    async with open_network(settings(hosts, bootstraps=())) as network:
        assert not network.named
        with pytest.raises(NotJoined, match="--bootstrap"):
            await network.hosts()
