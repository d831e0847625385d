"""`myxo restart proxy`: have a new process take a running proxy's place."""

import json
import select
from os import close, pidfd_open
from pathlib import Path
from time import monotonic
from typing import Any

import trio

from myxo.status import ANSWER_TIMEOUT_S, NothingRuns, control_sockets
from overlay.control import open_control
from overlay.errors import MyxoError, PeerUnreachable

WANT = "restart"

TAKES_OVER_S = 120.0
"""A start compiles byte code after an update, and a busy machine is slow."""

LOOK_S = 0.1


class NotRestarted(MyxoError):
    """A proxy was not replaced; it goes on if that is not said."""


async def restart_proxies(state_dir: Path, port: int | None) -> list[int]:
    """Replace the proxies of this machine, or the one at `port`; return the new process ids.

    Raises:
        NothingRuns: there is none.
        NotRestarted: one was not replaced; says why.
    """
    name = "proxy-*.sock" if port is None else f"proxy-{port}.sock"
    pids = []
    for path in control_sockets(state_dir):
        if path.match(name):
            answer = await _ask(path, WANT)
            if answer is None:
                continue
            if answer.get("error"):
                raise NotRestarted(str(answer["error"]))
            pids.append(int(answer["pid"]))
            await _until_there(path, pids[-1])
    if not pids:
        which = "no proxy" if port is None else f"no proxy at port {port}"
        raise NothingRuns(f"{which} runs here (looked in {state_dir / 'run'})")
    return pids


async def _until_there(path: Path, pid: int) -> None:
    """Return when the process `pid` serves the control socket."""
    deadline = monotonic() + TAKES_OVER_S
    while monotonic() < deadline:
        status = await _ask(path, "status")
        if status is not None and status.get("pid") == pid:
            return
        if _has_ended(pid):
            raise NotRestarted(
                f"the new proxy ended before it had taken over; its words are in the log of the "
                f"one that runs ({path})"
            )
        await trio.sleep(LOOK_S)
    raise NotRestarted(f"the new proxy had not taken over after {TAKES_OVER_S:g} s")


async def _ask(path: Path, want: str) -> dict[str, Any] | None:
    try:
        with trio.fail_after(ANSWER_TIMEOUT_S):
            async with open_control(path, want) as connection:
                line = await connection.receive()
    except (PeerUnreachable, trio.TooSlowError):
        return None
    return None if line is None else json.loads(line)


def _has_ended(pid: int) -> bool:
    try:
        descriptor = pidfd_open(pid)
    except OSError:
        return True
    try:
        return bool(select.select([descriptor], [], [], 0)[0])
    finally:
        close(descriptor)
