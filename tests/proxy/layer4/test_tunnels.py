"""Tunnels to machines whose gateways are played in memory, in virtual time."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
import trio
import trio.testing

from overlay.identity import Identity
from overlay.names import PeerId, ServiceName
from overlay.spec import ServiceSpec
from overlay.testing import measure
from overlay.view import View
from proxy.errors import RequestRefused, UpstreamLost
from proxy.layer4.hops import Hop, hops_of
from proxy.layer4.tunnels import CHECK_S

GroundOf = Callable[[], AbstractAsyncContextManager[Any]]

NEAR, FAR = (Identity.from_seed(bytes([n]) * 32) for n in (2, 3))
ME = "127.0.0.1"
TALK = Hop(ServiceName("talk"))
TCP = ServiceSpec(process="serve", protocol="tcp", hard_rtt_ms=50)


def probes(view: View, peer: PeerId, rtt_s: float, count: int = 20) -> None:
    """Have a peer be so far away, and for so long that it is no spike."""
    for _ in range(count):
        measure(view, peer, rtt_s)


async def test_bytes_go_to_the_instance_and_back(
    ground_of: GroundOf, autojump_clock: trio.testing.MockClock
) -> None:
    async with ground_of() as ground:
        ground.define("talk", TCP)
        ground.run("talk", NEAR)
        async with ground.tunnels.open(TALK, ME) as tunnel:
            assert ground.tunnels.count == 1
            await tunnel.end.send(b"ask")
            (asked,) = ground.asked
            assert await asked.end.receive() == b"ask"
            assert (asked.target.split("/")[2], asked.onward) == ("tcp", "")
        assert ground.tunnels.count == 0


async def test_a_tunnel_over_its_hard_limit_is_cut_and_the_next_one_goes_to_who_is_within(
    ground_of: GroundOf, autojump_clock: trio.testing.MockClock
) -> None:
    async with ground_of() as ground:
        ground.define("talk", TCP)
        ground.run("talk", NEAR)
        ground.run("talk", FAR, rtt_s=0.02)
        ground.nursery.start_soon(ground.tunnels.watch)
        began, cut = trio.current_time(), False
        async with ground.tunnels.open(TALK, ME) as tunnel:
            first = tunnel.instance.owner
            probes(ground.view, first, 0.2)
            try:
                await trio.sleep(60)
            except trio.Cancelled:
                cut = True
                raise
        assert cut
        assert trio.current_time() - began == 2 * CHECK_S  # a look finds it over, the next again
        async with ground.tunnels.open(TALK, ME) as tunnel:
            assert tunnel.instance.owner != first
            await trio.sleep(10 * CHECK_S)


async def test_one_look_that_finds_a_tunnel_over_its_limit_ends_nothing(
    ground_of: GroundOf, autojump_clock: trio.testing.MockClock
) -> None:
    async with ground_of() as ground:
        ground.define("talk", TCP)
        ground.run("talk", NEAR)
        ground.nursery.start_soon(ground.tunnels.watch)
        lasted = False
        async with ground.tunnels.open(TALK, ME):
            await trio.sleep(CHECK_S / 2)
            for _ in range(5):
                probes(ground.view, NEAR.peer_id, 0.2)
                await trio.sleep(CHECK_S)
                probes(ground.view, NEAR.peer_id, 0.001)
                await trio.sleep(CHECK_S)
            lasted = True
        assert lasted


async def test_without_a_hard_limit_distance_ends_nothing(
    ground_of: GroundOf, autojump_clock: trio.testing.MockClock
) -> None:
    async with ground_of() as ground:
        ground.define("talk", ServiceSpec(process="serve", protocol="tcp", soft_rtt_ms=1))
        ground.run("talk", NEAR)
        ground.nursery.start_soon(ground.tunnels.watch)
        lasted = False
        async with ground.tunnels.open(TALK, ME):
            probes(ground.view, NEAR.peer_id, 2.0)
            await trio.sleep(10 * CHECK_S)
            lasted = True
        assert lasted


async def test_a_gateway_that_does_not_reach_its_instance_is_passed_over(
    ground_of: GroundOf, autojump_clock: trio.testing.MockClock
) -> None:
    async with ground_of() as ground:
        ground.define("talk", TCP)
        ground.run("talk", NEAR)
        ground.run("talk", FAR, rtt_s=0.03)
        ground.refusals[NEAR.peer_id] = 421, "it has just ended"
        for _ in range(3):
            async with ground.tunnels.open(TALK, ME) as tunnel:
                assert tunnel.instance.owner == FAR.peer_id


async def test_a_chain_is_led_on_by_the_gateway_of_its_first_service(
    ground_of: GroundOf, autojump_clock: trio.testing.MockClock
) -> None:
    async with ground_of() as ground:
        ground.define("talk", TCP)
        ground.run("talk", NEAR)
        ground.leads_on.add(NEAR.peer_id)
        hops = hops_of("tcp/talk/udp/never-heard-of/tcp/talk")
        async with ground.tunnels.open_chain(hops, ME) as tunnels:
            assert len(tunnels) == 1
        assert [asked.onward for asked in ground.asked] == ["udp/never-heard-of/tcp/talk"]


async def test_behind_a_gateway_that_does_not_lead_on_this_proxy_does(
    ground_of: GroundOf, autojump_clock: trio.testing.MockClock
) -> None:
    async with ground_of() as ground:
        ground.define("talk", TCP)
        ground.define("echo", ServiceSpec(process="serve", protocol="udp"))
        ground.run("talk", NEAR)
        ground.run("echo", FAR)
        async with ground.tunnels.open_chain(hops_of("tcp/talk/udp/echo"), ME) as tunnels:
            assert [tunnel.instance.owner for tunnel in tunnels] == [NEAR.peer_id, FAR.peer_id]
            assert [tunnel.hard_s for tunnel in tunnels] == [0.05, 0.05]  # talk's holds for echo
        assert [asked.onward for asked in ground.asked] == ["udp/echo", ""]


async def test_what_cannot_be_had_behind_an_instance_is_not_laid_to_its_charge(
    ground_of: GroundOf, autojump_clock: trio.testing.MockClock
) -> None:
    async with ground_of() as ground:
        ground.define("talk", TCP)
        ground.run("talk", NEAR)
        ground.refusals[NEAR.peer_id] = 502, "echo runs nowhere"
        with pytest.raises(UpstreamLost, match="behind talk: echo runs nowhere"):
            async with ground.tunnels.open_chain(hops_of("tcp/talk/udp/echo"), ME):
                pytest.fail("it is there")
        assert len(ground.asked) == 1
        del ground.refusals[NEAR.peer_id]
        async with ground.tunnels.open(TALK, ME) as tunnel:
            assert tunnel.instance.owner == NEAR.peer_id


async def test_a_service_that_nobody_knows_is_refused_with_its_likeness(
    ground_of: GroundOf, autojump_clock: trio.testing.MockClock
) -> None:
    async with ground_of() as ground:
        ground.define("talk", TCP)
        with pytest.raises(RequestRefused, match="did you mean talk"):
            async with ground.tunnels.open(Hop(ServiceName("tal")), ME):
                pytest.fail("it is there")


async def test_tunnels_have_a_bound(
    ground_of: GroundOf,
    autojump_clock: trio.testing.MockClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("proxy.layer4.tunnels.MAX_TUNNELS", 1)
    async with ground_of() as ground:
        ground.define("talk", TCP)
        ground.run("talk", NEAR)
        async with ground.tunnels.open(TALK, ME):
            with pytest.raises(RequestRefused, match="1 tunnels are open here"):
                async with ground.tunnels.open(TALK, ME):
                    pytest.fail("it is there")
