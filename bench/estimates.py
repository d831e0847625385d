"""How well coordinates alone tell RTTs, on hosts of the lab that are as far apart as cities.

Each peer is asked what RTT to each other one its coordinates give; the truth is what the lab delays
packets by, both ways. Jitter is 2 %, and one packet in a thousand is lost.
"""

import time
from itertools import permutations

from bench.command import Report, run
from bench.contenders import MyxoPeers
from bench.errors import NetworkFailed
from bench.netlab.errors import LabFailed
from bench.netlab.presets import Preset
from bench.overlay import Network, grown
from bench.stats import quantile, table

HOSTS, HOSTS_QUICK = 12, 8
AFTER_S, AFTER_QUICK_S = (10.0, 30.0, 60.0), (5.0, 15.0)
"""When they are asked, in seconds after everybody knew everybody."""


def measure(quick: bool) -> Report:
    """Return all figures of this benchmark.

    Raises:
        NetworkFailed: it could not be measured.
    """
    hosts, moments = (HOSTS_QUICK, AFTER_QUICK_S) if quick else (HOSTS, AFTER_S)
    peers = MyxoPeers()
    found: dict[float, list[float]] = {}
    try:
        with grown(peers, Preset.GEO, seed=3, hosts=hosts) as network:
            began = time.monotonic()
            for moment in moments:
                time.sleep(max(0.0, began + moment - time.monotonic()))
                found[moment] = _errors(network, peers)
    except LabFailed as exc:
        raise NetworkFailed(str(exc)) from exc
    return report(found, hosts)


def _errors(network: Network, peers: MyxoPeers) -> list[float]:
    """Return the relative error of each estimate."""
    estimated = {name: peers.estimates(peer) for name, peer in network.peers.items()}
    return [
        error(estimated[one][other], network.lab.link(one, other).properties().delay_s)
        for one, other in permutations(network.peers, 2)
        if other in estimated[one]
    ]


def error(estimate_s: float, delay_s: float) -> float:
    """Return how far an estimated RTT is from the truth, as a share of it.

    Args:
        estimate_s: the RTT, in seconds.
        delay_s: of the link, one way.
    """
    return abs(estimate_s - 2 * delay_s) / (2 * delay_s)


def report(found: dict[float, list[float]], hosts: int) -> Report:
    """Return the figures of the errors that were found, by the seconds after which."""
    figures: dict[str, float] = {"hosts": hosts}
    rows = []
    for moment, errors in found.items():
        if not errors:
            raise NetworkFailed("nobody estimates anything")
        middle, high = quantile(errors, 0.5), quantile(errors, 0.9)
        figures |= {"lab_coordinate_error_median": middle, "lab_coordinate_error_p90": high}
        rows.append([f"{moment:.0f}", str(len(errors)), f"{middle:.1%}", f"{high:.1%}"])
    head = [f"seconds after {hosts} hosts knew each other", "pairs", "error, median", "p90"]
    return Report(figures, table(head, rows))


if __name__ == "__main__":
    run("estimates", __doc__.splitlines()[0], measure)
