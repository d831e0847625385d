"""Daemons forked from a process that has imported what they run, so that none imports it again.

Imports are most of a daemon's start, a CPU second and more of each, and take memory that forked
processes share. A process may be forked while it has one thread and no event loop runs in it, so
this is done before `trio.run`; a daemon that ends later is started anew from what is installed.
"""

import gc
import json
import os
import shlex
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress

from setproctitle import setproctitle, setthreadtitle

from myxo.daemons import Daemon, load, run_command
from myxo.following import Followed

_ORDER_BYTES = 2**16
_STDIN, _STDOUT = 0, 1


class Forked(Followed):
    """A child of this process that waits to be told to run its daemon.

    Attributes:
        daemon: what it runs.
    """

    def __init__(self, pid: int, daemon: Daemon, line: socket.socket) -> None:
        super().__init__(pid, is_child=True)
        self.daemon = daemon
        self._line = line

    def go(self, environment: Mapping[str, str]) -> bool:
        """Let it run, with `environment` beside what this process has; return whether it hears.

        Its standard input is held open until `leave`, or until this process has ended.
        """
        with suppress(OSError):
            self._line.sendall(json.dumps(dict(environment)).encode())
            return True
        return False

    def leave(self) -> None:
        """End its standard input; a child that was not told to run ends then."""
        self._line.close()


def fork_daemons(daemons: Sequence[Daemon]) -> list[Forked]:
    """Return a child for each of `daemons`, which waits for `Forked.go`.

    In a child this does not return: it runs its daemon and raises SystemExit at the end.
    """
    load({daemon.name for daemon in daemons})
    gc.freeze()  # a collection that writes to what is shared would copy it
    forked: list[Forked] = []
    for daemon in daemons:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pid = os.fork()
        if pid == 0:
            for child in forked:
                child.leave()
            ours.close()
            _become(daemon, theirs)
        theirs.close()
        forked.append(Forked(pid, daemon, ours))
    return forked


def _become(daemon: Daemon, line: socket.socket) -> None:
    """Wait for the order, then be the process that `python -m myxo` would have been."""
    os.setsid()  # Ctrl-C in the terminal is for who forked this one
    command = [sys.executable, "-m", "myxo", daemon.name, *daemon.arguments]
    setproctitle(shlex.join(command))
    setthreadtitle(daemon.name)  # which is cut after 15 signs: not in the middle of a path
    order = line.recv(_ORDER_BYTES)
    if not order:
        raise SystemExit(0)
    os.environ.update(json.loads(order))
    os.dup2(line.fileno(), _STDIN)
    line.close()
    _discard_output()
    sys.orig_argv[:] = command
    sys.argv[:] = ["myxo", *command[3:]]
    run_command(daemon.name, daemon.arguments)


def _discard_output() -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, _STDOUT)
    os.close(null)
