"""A lab for people: its hosts, and its links as the matrix that they are."""

import json
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table


def print_status(status: Mapping[str, Any], *, as_json: bool) -> None:
    """Print what `Lab.status` returned."""
    if as_json:
        print(json.dumps(status))
        return
    console = Console()
    for table in (_hosts(status), _links(status)):
        console.print(table)


def link_text(path: Mapping[str, Any]) -> str:
    """Return a direction of a link in a few words, such as `45±2 ms 2% 100 Mbit/s`."""
    if path["cut"]:
        return "cut"
    link = path["link"]
    delay, jitter = 1000 * link.get("delay_s", 0), 1000 * link.get("jitter_s", 0)
    words = [f"{delay:.3g}" + (f"±{jitter:.2g}" if jitter else "") + " ms"]
    if loss := link.get("loss"):
        words.append(f"{100 * loss:.3g}%")
    if bandwidth := link.get("bandwidth_bps"):
        words.append(f"{bandwidth / 1e6:.4g} Mbit/s")
    if link.get("reorder"):
        words.append("reordering")
    return " ".join(words)


def _hosts(status: Mapping[str, Any]) -> Table:
    table = Table("host", "address", "behind", "engine", "is", title="Hosts", title_justify="left")
    for host in status["hosts"]:
        nat = "" if host["nat"] == "none" else f"{host['nat']} NAT, as {host['ip']}"
        is_now = "off" if not host["on"] else "cut off" if host["cut"] else "on"
        table.add_row(
            host["name"], host["address"], nat, "Docker" if host["engine"] else "", is_now
        )
    return table


def _links(status: Mapping[str, Any]) -> Table:
    names = [host["name"] for host in status["hosts"]]
    paths = {(path["from"], path["to"]): path for path in status["links"]}
    table = Table("from \\ to", *names, title="Links, one way", title_justify="left")
    for source in names:
        cells = [link_text(paths[source, target]) if source != target else "" for target in names]
        table.add_row(source, *cells)
    return table
