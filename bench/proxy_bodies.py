"""Large bodies through each hop: bytes a second, and the memory that they take."""

from collections import defaultdict
from collections.abc import Mapping
from statistics import median
from typing import Any

from bench.client import requests_per_second
from bench.machine import clear_peak, peak_mib
from bench.open_load import download_s, upload_s
from bench.proxy_rates import DIRECT, Target
from bench.stats import spread, table

MIB = 1024**2
SIZES = {"100 KB": 100_000, "10 MB": 10_000_000}
CONNECTIONS = 4
STREAM_BYTES, STREAM_QUICK_BYTES = 1024 * MIB, 128 * MIB


def measure(
    targets: Mapping[str, Target], *, quick: bool, rounds: int
) -> tuple[dict[str, Any], str]:
    """Return figures and a table.

    Args:
        targets: by hop, where `bodies` answers through it.
        quick: only streams, and smaller ones.
        rounds: of one block for each hop.

    Raises:
        AnswerFailed: some hop does not answer.
    """
    size = STREAM_QUICK_BYTES if quick else STREAM_BYTES
    rates: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for _ in range(rounds):
        for hop, target in targets.items():
            for name, each in () if quick else SIZES.items():
                url = f"{target.url}{each}"
                done = requests_per_second(url, connections=CONNECTIONS, duration_s=1)
                rates[name][hop].append(done * each / 1e6)
            took = download_s(f"{target.url}{size}", size)
            rates["stream down"][hop].append(size / took / 1e6)
            rates["stream up"][hop].append(size / upload_s(f"{target.url}0", size) / 1e6)
    figures: dict[str, Any] = {
        "stream_bytes_ratio_" + hop: median(rates["stream down"]["myxo"]) / median(each)
        for hop, each in rates["stream down"].items()
        if hop not in {DIRECT, "myxo"}
    }
    figures["mb_per_s"] = {
        name: {hop: median(each) for hop, each in by_hop.items()} for name, by_hop in rates.items()
    }
    figures["body_growth_mib"] = growth_mib(targets["myxo"], size)
    figures["body_mib"] = size / MIB
    rows = [[hop, *(spread(by_hop[hop]).text(0) for by_hop in rates.values())] for hop in targets]
    note = (
        f"one body of {size // MIB} MiB each way: Myxo's resident memory grew by "
        f"{figures['body_growth_mib']:.1f} MiB at the most"
    )
    return figures, table(["MB/s", *rates], rows) + "\n\n" + note


def growth_mib(target: Target, size: int) -> float:
    """Return how much more memory a hop has at the most while it passes a body on each way."""
    assert target.pid is not None  # noqa: S101  (for the type checker: only direct has none)
    clear_peak(target.pid)
    before = peak_mib(target.pid)
    download_s(f"{target.url}{size}", size)
    upload_s(f"{target.url}0", size)
    return peak_mib(target.pid) - before
