"""From one machine to another: Myxo's proxy and gateway beside two Envoys, mutual TLS between each.

Two namespaces with a pair of virtual cables. Then the gateway's port is shut, and Myxo's requests
go over the overlay instead.
"""

import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import trio

from bench import backend
from bench.client import AnswerFailed, requests_per_second
from bench.envoy import FLAGS, write_config
from bench.hop import program, running
from bench.network import Network, joined_proxy, network
from bench.open_load import OpenLoop, answered
from bench.stats import quantile, spread, table
from bench.veth import Machine, do, two_machines

SERVICE = "far"
OVERLAY = "overlay"
RATE = 500
LOOP_CONNECTIONS, PEAK_CONNECTIONS = 16, 32
TIMEOUT_S = 60.0
_TLS_PORT, _HOP_PORT, PROXY_PORT, _GATEWAY_PORT = 8443, 8080, 4200, 4443


def measure(
    *, quick: bool, rounds: int, block_s: float, peak_s: float
) -> tuple[dict[str, Any], str]:
    """Return figures and a table.

    Args:
        quick: not over the overlay.
        rounds: of one block for each way.
        block_s: seconds of a block at a fixed rate.
        peak_s: seconds of a block of wrk, which takes whole ones.

    Raises:
        LabFailed, NetworkFailed, AnswerFailed, HopMissing: it could not be measured.
    """
    with ExitStack() as stack:
        server, client = stack.enter_context(two_machines())
        founded = stack.enter_context(
            network("process", inside=server.inside, address=server.address)
        )
        founded.registry_cli("add", "--process", f"exec {backend.program()} $SERVICE_PORT", SERVICE)
        stack.enter_context(run_proxy(founded, client))
        urls = {"myxo": f"http://127.0.0.1:{PROXY_PORT}/{SERVICE}/"}
        await_answer(client, urls["myxo"])
        (address,) = trio.run(founded.addresses, SERVICE)
        stack.enter_context(_envoys(server, client, address))
        urls["envoy"] = f"http://127.0.0.1:{_HOP_PORT}/"
        await_answer(client, urls["envoy"])
        rates: dict[str, list[float]] = defaultdict(list)
        medians: dict[str, list[float]] = defaultdict(list)
        for turn in range(rounds):
            for way in list(urls)[:: 1 if turn % 2 else -1]:
                _take(client, urls[way], block_s, peak_s, rates[way], medians[way])
        if not quick:
            _shut_gateway(server)
            await_answer(client, urls["myxo"])
            for _ in range(rounds):
                _take(client, urls["myxo"], block_s, peak_s, rates[OVERLAY], medians[OVERLAY])
    return _report(rates, medians)


def _take(
    client: Machine,
    url: str,
    block_s: float,
    peak_s: float,
    rates: list[float],
    medians: list[float],
) -> None:
    load = OpenLoop(
        url,
        rate=RATE,
        duration_s=block_s,
        connections=LOOP_CONNECTIONS,
        inside=client.inside,
    )
    medians.append(quantile(answered(load.ended(), url), 0.5))
    rates.append(
        requests_per_second(
            url, connections=PEAK_CONNECTIONS, duration_s=peak_s, inside=client.inside
        )
    )


def _shut_gateway(server: Machine) -> None:
    """Have connections to the gateway end and no other be made."""
    gateway = ("-p", "tcp", "--dport", str(_GATEWAY_PORT), "-j", "REJECT")
    do(*server.inside, "iptables", "-A", "INPUT", *gateway, "--reject-with", "tcp-reset")


def run_proxy(founded: Network, client: Machine) -> AbstractContextManager[int]:
    """Run a proxy on the client's machine; yield its process id when it is ready."""
    return joined_proxy(founded, "client", [str(PROXY_PORT)], client.inside)


@contextmanager
def _envoys(server: Machine, client: Machine, address: str) -> Iterator[None]:
    """Run one Envoy on each machine, with mutual TLS between them."""
    host, _, port = address.rpartition(":")
    with tempfile.TemporaryDirectory(prefix="myxo-bench-envoys-") as name, ExitStack() as stack:
        folder = Path(name)
        key, certificate = folder / "key.pem", folder / "certificate.pem"
        curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        out = ["-keyout", str(key), "-out", str(certificate)]
        do("openssl", "req", "-x509", *curve, *out, "-days", "7", "-subj", "/CN=bench")
        tls = {
            "tls_params": {
                "tls_minimum_protocol_version": "TLSv1_3",
                "tls_maximum_protocol_version": "TLSv1_3",
            },
            "tls_certificates": [
                {
                    "certificate_chain": {"filename": str(certificate)},
                    "private_key": {"filename": str(key)},
                }
            ],
            "validation_context": {"trusted_ca": {"filename": str(certificate)}},
        }
        far, near = folder / "far.json", folder / "near.json"
        write_config(far, (server.address, _TLS_PORT), (host, int(port)), inbound=tls)
        write_config(near, ("127.0.0.1", _HOP_PORT), (server.address, _TLS_PORT), outbound=tls)
        for machine, config in ((server, far), (client, near)):
            command = [*machine.inside, program("envoy"), "-c", str(config), *FLAGS]
            stack.enter_context(running(command, config.with_suffix(".log")))
        yield


def await_answer(client: Machine, url: str) -> None:
    """Return when `url` is answered 200 on the client's machine."""
    deadline = time.monotonic() + TIMEOUT_S
    curl = [*client.inside, "curl", "-sf", "-m", "10", "-o", "/dev/null", url]
    while subprocess.run(curl, check=False).returncode:
        if time.monotonic() > deadline:
            raise AnswerFailed(f"{url} does not answer on the other machine")
        time.sleep(0.05)


def _report(
    rates: dict[str, list[float]], medians: dict[str, list[float]]
) -> tuple[dict[str, Any], str]:
    figures: dict[str, Any] = {
        "two_host_rps_ratio_envoy": median(rates["myxo"]) / median(rates["envoy"]),
        "two_host_p50_ratio_envoy": median(medians["myxo"]) / median(medians["envoy"]),
        "two_host_rps": {way: median(each) for way, each in rates.items()},
        "two_host_p50_ms": {way: median(each) * 1000 for way, each in medians.items()},
    }
    names = {"myxo": "Myxo, TLS", "envoy": "two Envoys, TLS", OVERLAY: "Myxo, over the overlay"}
    rows = [
        [names[way], spread([s * 1000 for s in medians[way]]).text(3), spread(rates[way]).text(0)]
        for way in names
        if way in rates
    ]
    return figures, table(["two machines", f"p50 at {RATE}/s, ms", "requests/s"], rows)
