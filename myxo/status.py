"""`myxo status`: what this machine's daemons know of the network, as tables or JSON."""

import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import trio
from rich.console import Console
from rich.table import Table
from rich.text import Text

from overlay.control import open_control
from overlay.errors import MyxoError, PeerUnreachable
from overlay.settings import SYSTEM_STATE_DIR

ANSWER_TIMEOUT_S = 3.0

LOG_LINES = 5
"""Of a failed instance's log; `--json` has more of them."""


class NothingRuns(MyxoError):
    """No daemon of this state directory answers."""


def no_proxy(state_dir: Path, which: str = "") -> NothingRuns:
    """Return the error that no proxy runs here; `which` says what was looked for, if not any."""
    looked = f"no proxy runs here{which} (looked in {state_dir / 'run'})"
    return NothingRuns(f"{looked}; start with `myxo up` or `myxo join ADDR`")


async def read_status(state_dir: Path) -> list[dict[str, Any]]:
    """Return what each daemon of this machine says of itself, those that systemd runs included.

    Raises:
        NothingRuns: none answers.
    """
    found: list[dict[str, Any]] = []
    for path in control_sockets(state_dir):
        try:
            with trio.fail_after(ANSWER_TIMEOUT_S):
                async with open_control(path, "status") as connection:
                    line = await connection.receive()
        except (PeerUnreachable, trio.TooSlowError):
            continue
        if line is not None:
            found.append(json.loads(line))
    if not found:
        raise NothingRuns(
            f"no daemon runs here (looked in {state_dir / 'run'}); start with `myxo up`, or "
            "`myxo join ADDR` for a network that exists"
        )
    return found


def control_sockets(state_dir: Path) -> list[Path]:
    """Return the sockets of this machine's daemons, of those that systemd runs too."""
    return sorted(p for d in (state_dir, SYSTEM_STATE_DIR) for p in (d / "run").glob("*.sock"))


def as_tables(daemons: list[dict[str, Any]]) -> list[Table]:
    """Return the tables that a person reads: peers, services with instances, warnings."""
    return [
        *_banned(daemons),
        *_changing(daemons),
        _peers(daemons),
        _instances(daemons),
        *_images(daemons),
        *_standby(daemons),
        *_crash_loops(daemons),
        *_not_kept(daemons),
        *_put_away(daemons),
        *_policies(daemons),
        *_limits(daemons),
    ]


def print_status(daemons: list[dict[str, Any]], *, as_json: bool) -> None:
    """Print what `read_status` returned."""
    console = Console()
    if as_json:
        console.print_json(json.dumps(merged(daemons)))
        return
    for table in as_tables(daemons):
        console.print(table)


def merged(daemons: list[dict[str, Any]]) -> dict[str, Any]:
    """Return one view of the network from those of several daemons on one machine."""
    best = max(daemons, key=lambda d: len(d["peers"]))
    services: list[dict[str, Any]] = next((d["services"] for d in daemons if "services" in d), [])
    return {
        "network": best["network"],
        "open": best["open"],
        "daemons": [
            {k: v for k, v in d.items() if k not in {"peers", "instances", "services"}}
            for d in daemons
        ],
        "peers": best["peers"],
        "instances": best["instances"],
        "services": services,
    }


def _images(daemons: Iterable[Mapping[str, Any]]) -> list[Table]:
    """Return which images are on their way to this machine, and how far they are."""
    table = _table("Images that are coming", ("host", "image", "MiB", "of", "MiB/s", "from"))
    for d in daemons:
        for one in d.get("images", {}).get("fetching", ()):
            mib = [f"{one[key] / 2**20:.1f}" for key in ("bytes", "total_bytes", "bytes_per_s")]
            _add(table, d["host"], one["image"], *mib, ", ".join(map(_short, one["from"])))
    return [table] if table.row_count else []


def _banned(daemons: Iterable[Mapping[str, Any]]) -> list[Table]:
    """Return which daemons of this machine were shut out of the network, by whom and when."""
    table = _table("Banned from the network", ("host", "role", "by", "since", "peer"))
    for d in daemons:
        banned = d.get("trust", {}).get("banned")
        if banned is not None:
            by = f"says {_short(banned['said_by'])}" if banned["by"] is None else banned["by"]
            since = "" if banned["at"] is None else as_date(banned["at"])
            _add(table, d["host"], d["role"], by, since, _short(d["peer_id"]))
    return [table] if table.row_count else []


def _changing(daemons: Iterable[Mapping[str, Any]]) -> list[Table]:
    """Return which daemons wait for a change of the passphrase to be finished."""
    table = _table("The passphrase is being changed", ("host", "role", ""))
    for d in daemons:
        if d.get("trust", {}).get("passphrase", {}).get("stage") == "prepare":
            what = "takes the old and the new one; `myxo psk rotate --resume` ends that"
            _add(table, d["host"], d["role"], what)
    return [table] if table.row_count else []


def as_date(at: float) -> str:
    """Return a time in seconds since the epoch as people here write it."""
    return datetime.fromtimestamp(at).astimezone().strftime("%Y-%m-%d %H:%M")


def _peers(daemons: list[dict[str, Any]]) -> Table:
    table = _table("Peers", ("host", "role", "state", "RTT ms", "estimate ms", "room", "peer"))
    here = {d["peer_id"] for d in daemons}
    known = {p["peer_id"]: p for d in daemons for p in d["peers"]}
    for d in daemons:
        room = known.get(d["peer_id"], {}).get("room")
        _add(table, d["host"], d["role"], "here", "", "", _room(room), _short(d["peer_id"]))
    for peer in known.values():
        if peer["peer_id"] not in here:
            _add(
                table,
                peer["host"],
                peer["role"],
                peer["state"],
                _ms(peer["measured_rtt_s"]),
                _estimate(peer["estimated_rtt_s"], peer["estimate_error_s"]),
                _room(peer["room"]),
                _short(peer["peer_id"]),
            )
    return table


def _instances(daemons: list[dict[str, Any]]) -> Table:
    both = merged(daemons)
    running: dict[str, list[Mapping[str, Any]]] = {s["name"]: [] for s in both["services"]}
    for instance in both["instances"]:
        running.setdefault(instance["service"], []).append(instance)
    table = _table("Services", ("service", "revision", "instance", "host", "state", "in flight"))
    for name in sorted(running):
        if not running[name]:
            _add(table, name, "", "none: starts on the first request", "", "", "")
        for i in running[name]:
            _add(
                table, name, str(i["revision"]), i["id"], i["host"], i["state"], str(i["in_flight"])
            )
    return table


def _standby(daemons: Iterable[Mapping[str, Any]]) -> list[Table]:
    """Return what paused instances hold of this machine, if there are any."""
    table = _table("Paused on this machine", ("host", "instances", "MiB", "at most"))
    for d in daemons:
        if (standby := d.get("standby")) and standby["instances"]:
            most = f"{standby['most_instances']} instances, {standby['most_memory_mib']} MiB"
            _add(table, d["host"], str(standby["instances"]), str(standby["memory_mib"]), most)
    return [table] if table.row_count else []


def _not_kept(daemons: Iterable[Mapping[str, Any]]) -> list[Table]:
    """Return of which services this machine keeps fewer instances than they want, and why."""
    columns = ("host", "service", "too few by", "because", "owner")
    table = _table("Not kept on this machine (min_instances)", columns)
    for d in daemons:
        for one in d.get("not_kept", ()):
            why = (
                f"{one['most_of_owner']} of one owner is the most, {one['most_in_all']} of all; "
                "the policy file's limits.kept changes it"
            )
            _add(
                table,
                d["host"],
                one["service"],
                str(one["withheld"]),
                why,
                _short(one["owner"]),
            )
    return [table] if table.row_count else []


def _crash_loops(daemons: Iterable[Mapping[str, Any]]) -> list[Table]:
    """Return what failed lately on this machine, and when it may start again."""
    columns = ("host", "service", "revision", "failures", "next try", "the last time")
    table = _table("Failed lately on this machine", columns)
    for d in daemons:
        for loop in d.get("crash_loops", []):
            wait_s = loop["wait_s"]
            _add(
                table,
                d["host"],
                loop["service"],
                str(loop["revision"]),
                str(loop["failures"]),
                f"in {wait_s:.0f} s" if wait_s > 0 else "when it is asked for",
                "\n".join([loop["reason"], *loop.get("log", "").splitlines()[-LOG_LINES:]]),
            )
    return [table] if table.row_count else []


def _put_away(daemons: Iterable[Mapping[str, Any]]) -> list[Table]:
    """Return which instances of this machine are gone lately, and why."""
    table = _table("Gone lately from this machine", ("host", "service", "instance", "ago", "why"))
    for d in daemons:
        for gone in reversed(d.get("put_away", [])):
            ago = f"{gone['ago_s']:.0f} s"
            _add(table, d["host"], gone["service"], gone["id"], ago, gone["why"])
    return [table] if table.row_count else []


def _limits(daemons: Iterable[Mapping[str, Any]]) -> list[Table]:
    """Return what a runtime of this machine does not enforce, or why it cannot be used."""
    table = _table("Limits of this machine's runtimes", ("host", "runtime", ""))
    for d in daemons:
        if problem := d.get("sandboxes", {}).get("problem"):
            _add(table, d["host"], "docker", problem)
        for runtime in d.get("runtimes", []):
            if not runtime["usable"]:
                _add(table, d["host"], runtime["name"], runtime["problem"])
            elif runtime["unenforced"]:
                names = ", ".join(runtime["unenforced"])
                _add(table, d["host"], runtime["name"], f"not enforced: {names}")
    return [table] if table.row_count else []


def _policies(daemons: Iterable[Mapping[str, Any]]) -> list[Table]:
    """Return which policy files of this machine are not in force as they are."""
    table = _table("The policy file cannot be used", ("host", ""))
    for d in daemons:
        if problem := d.get("policy", {}).get("problem"):
            _add(table, d["host"], problem)
    return [table] if table.row_count else []


def _table(title: str, columns: tuple[str, ...]) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _add(table: Table, *cells: str) -> None:
    """Add a row of plain text: what peers say of themselves is no markup."""
    table.add_row(*(Text(cell) for cell in cells))


def _short(peer_id: str) -> str:
    """Return the end of a peer id: all begin alike. `--json` has them whole."""
    return "…" + peer_id[-8:]


def _ms(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * 1000:.2f}"


def _estimate(rtt_s: float | None, error_s: float | None) -> str:
    return "" if rtt_s is None or error_s is None else f"{rtt_s * 1000:.2f} ± {error_s * 1000:.2f}"


def _room(room: Mapping[str, int] | None) -> str:
    if room is None:
        return ""
    return f"{room['cpu_millicores']} millicores, {room['memory_mib']} MiB"
