"""How good the lab's network is: what it adds to a delay, what it carries, what it costs.

The round trip of a ping over a link of 100 ms and of none; one TCP stream with packets of 1500
bytes, for which the hosts' socket buffers are raised to hold a window of 100 ms; and the router's
processor time while 8 hosts send packets at a steady rate over links of 20 ms.
"""

import socket
import subprocess
import sys
import time
from typing import Any

from bench.command import Report, run
from bench.netlab.hosts import Host
from bench.netlab.lab import Lab, open_lab
from bench.netlab.plan import make_plan
from bench.stats import table

PINGS, PINGS_QUICK = 100, 30
STREAM_S, STREAM_QUICK_S = 10.0, 4.0
STEADY_S, STEADY_QUICK_S = 10.0, 4.0
RATES = (1000, 8000)
STEADY_HOSTS = 8
BUFFER_BYTES = 64 * 2**20
WARM_UP_S = 3.0
"""TCP has found its window by then."""

_PORT = 4000

_SENDER = """
import socket, sys
sock = socket.create_connection((sys.argv[1], int(sys.argv[2])))
block = bytes(1 << 20)
while True:
    sock.sendall(block)
"""


def measure(quick: bool) -> Report:
    """Return what the lab adds, carries and costs."""
    figures: dict[str, Any] = {}
    rows: list[list[str]] = []
    with open_lab(make_plan(hosts=2)) as lab:
        for delay_ms in (0, 100):
            lab.link(*lab.hosts).set(delay_s=delay_ms / 2000)
            ping = _ping(lab, PINGS_QUICK if quick else PINGS)
            figures |= {f"ping_{delay_ms}_{name}_ms": value for name, value in ping.items()}
            text = "{mean:.2f} ± {deviation:.2f} ({least:.2f}–{most:.2f})".format(**ping)
            rows.append([f"ping over {delay_ms} ms, ms", text])
            stream = _stream(lab, STREAM_QUICK_S if quick else STREAM_S)
            figures[f"stream_{delay_ms}_mb_s"] = stream
            rows.append([f"one TCP stream over {delay_ms} ms, MB/s", f"{stream:.0f}"])
    for rate in RATES:
        cpu = _router_cpu(rate, STEADY_QUICK_S if quick else STEADY_S)
        figures[f"router_cpus_at_{rate}"] = cpu
        rows.append([f"router at {rate:,} packets/s, processors", f"{cpu:.3f}"])
    return Report(figures, table(["what", ""], rows))


def _ping(lab: Lab, count: int) -> dict[str, float]:
    """Return least, mean and most, and the standard deviation, in milliseconds.

    They are ping's own: its lines have three digits only.
    """
    here, there = lab.hosts
    said = here.run(["ping", "-q", "-n", "-c", str(count), "-i", "0.05", there.ip]).stdout
    values = said.rpartition("= ")[2].split()[0].split("/")
    return dict(zip(("least", "mean", "most", "deviation"), map(float, values), strict=True))


def _stream(lab: Lab, seconds: float) -> float:
    """Return 10^6 bytes a second of one TCP stream."""
    here, there = lab.hosts
    for host in (here, there):
        buffers = f"4096 131072 {BUFFER_BYTES}"
        host.run(["sysctl", "-qw", f"net.ipv4.tcp_wmem={buffers}", f"net.ipv4.tcp_rmem={buffers}"])
    with there.inside(lambda: socket.create_server((there.ip, _PORT))) as listening:
        sender = here.popen(
            [sys.executable, "-c", _SENDER, there.ip, str(_PORT)], stderr=subprocess.DEVNULL
        )
        with listening.accept()[0] as receiving:
            _receive(receiving, WARM_UP_S)
            rate = _receive(receiving, seconds)
        sender.kill()
        sender.wait()
    return rate / 1e6


def _receive(sock: socket.socket, seconds: float) -> float:
    """Return the bytes a second that came."""
    buffer, received, began = bytearray(1 << 20), 0, time.monotonic()
    while time.monotonic() < began + seconds:
        received += sock.recv_into(buffer)
    return received / (time.monotonic() - began)


def _router_cpu(rate: int, seconds: float) -> float:
    """Return the processors that the router uses at `rate` packets a second in all."""
    with open_lab(make_plan(hosts=STEADY_HOSTS, default={"delay_ms": 20})) as lab:
        ring = list(zip(lab.hosts, (*lab.hosts[1:], lab.hosts[0]), strict=True))
        sockets = [(_udp(here), (there.ip, _PORT)) for here, there in ring]
        before, began = lab.status()["router"]["cpu_s"], time.monotonic()
        sent = 0
        while (elapsed := time.monotonic() - began) < seconds:
            while sent < elapsed * rate:
                sock, target = sockets[sent % len(sockets)]
                sock.sendto(bytes(100), target)
                sent += 1
            time.sleep(0.0005)
        used = lab.status()["router"]["cpu_s"] - before
        for sock, _ in sockets:
            sock.close()
    return float(used) / elapsed


def _udp(host: Host) -> socket.socket:
    def bound() -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind((host.ip, _PORT))
        return sock

    return host.inside(bound)


if __name__ == "__main__":
    run("netlab.measure", (__doc__ or "").partition("\n")[0], measure)
