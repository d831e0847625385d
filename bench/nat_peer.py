"""One peer of `bench.nat`: `relay`, `hidden` or `caller`, each in a namespace of its own.

The caller prints one JSON object: how long connecting took, echoes, and bytes a second.
"""

import json
import logging
import sys
import time
from random import Random

import structlog
import trio

from overlay.addresses import Address
from overlay.connection import Connection
from overlay.framing import FramedStream
from overlay.host import Host, open_host
from overlay.identity import Identity
from overlay.names import PeerId
from overlay.punching import Puncher
from overlay.relay import Relay
from overlay.reservations import Reservations

PORTS = {"relay": 4001, "hidden": 4003, "caller": 4004}
WHO = {role: Identity.from_seed(role.encode().ljust(32)) for role in PORTS}
ECHO, SINK = "/bench/echo/1.0.0", "/bench/sink/1.0.0"
PSK = b"b" * 32

ECHOES, ECHO_BYTES = 300, 100
CHUNK_BYTES = 1 << 20
TIMEOUT_S = 30.0


def main() -> None:
    """Be the peer that the command line says."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    role, relay_ip, outside_ip, way, megabytes = sys.argv[1:]
    trio.run(_run, role, relay_ip, outside_ip, way, int(megabytes))


async def _run(role: str, relay_ip: str, outside_ip: str, way: str, megabytes: int) -> None:
    relay = f"/ip4/{relay_ip}/tcp/{PORTS['relay']}"
    listen = [f"/ip4/0.0.0.0/tcp/{PORTS[role]}"]
    async with open_host(WHO[role], listen, psk=PSK) as host:
        host.handle(ECHO, _echo)
        host.handle(SINK, _sink)
        outside = [Address("ip4", outside_ip, PORTS[role])]
        puncher = Puncher(host, lambda: outside, lambda _: [], Random())  # noqa: S311
        if role == "relay":
            Relay(host, lambda: [relay], time.time)
            await trio.sleep_forever()
        await host.connect(WHO["relay"].peer_id, relay, timeout_s=TIMEOUT_S)
        if role == "hidden":
            beside = puncher.initiate if way == "punched" else _nothing
            relays = [WHO["relay"].peer_id]
            kept = Reservations(host, _connected, lambda: relays, _reserved, beside, time.time)
            await kept.run()
        print(json.dumps(await _measured(host, relay, way, megabytes)), flush=True)


async def _measured(host: Host, relay: str, way: str, megabytes: int) -> dict[str, object]:
    peer = WHO["relay" if way == "direct" else "hidden"].peer_id
    circuit = f"{relay}/p2p/{WHO['relay'].peer_id}/p2p-circuit"
    began = time.perf_counter()
    with trio.fail_after(TIMEOUT_S):
        if way == "direct":
            await host.disconnect(peer)
        await host.connect(peer, relay if way == "direct" else circuit, timeout_s=TIMEOUT_S)
        while way == "punched" and not host.is_direct(peer):
            await host.next_change.wait()
    connect_s = time.perf_counter() - began
    return {
        "connect_s": connect_s,
        "echo_s": await _echoes(host, peer),
        "bytes_per_s": await _throughput(host, peer, megabytes),
    }


async def _echoes(host: Host, peer: PeerId) -> list[float]:
    taken = []
    async with await host.open_stream(peer, ECHO) as stream:
        for _ in range(ECHOES):
            began = time.perf_counter()
            await stream.send(bytes(ECHO_BYTES))
            await stream.receive()
            taken.append(time.perf_counter() - began)
        await stream.finish()
    return taken


async def _throughput(host: Host, peer: PeerId, megabytes: int) -> float:
    async with await host.open_stream(peer, SINK) as stream:
        began = time.perf_counter()
        for _ in range(megabytes):
            await stream.send(bytes(CHUNK_BYTES))
        await stream.finish()
        await stream.receive()
        return megabytes * CHUNK_BYTES / (time.perf_counter() - began)


async def _echo(_: PeerId, stream: FramedStream) -> None:
    while (message := await stream.receive()) is not None:
        await stream.send(message)


async def _sink(_: PeerId, stream: FramedStream) -> None:
    while await stream.receive() is not None:
        pass
    await stream.send(b"all of it")


async def _nothing(_: Connection) -> None:
    pass


async def _connected(_: PeerId) -> None:
    pass


def _reserved(_: tuple[str, ...]) -> None:
    print("reserved", flush=True)


if __name__ == "__main__":
    main()
