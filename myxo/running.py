"""Who runs this machine's part in a network: a file that it holds locked, with its process id.

A lock ends with its process, however that ends, so a file that is left over names nobody.
"""

import fcntl
import os
import select
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from myxo.supervisor import STOP_TIMEOUT_S
from overlay.errors import MyxoError

DOWN_TIMEOUT_S = STOP_TIMEOUT_S + 6.0
"""How long `myxo down` waits: the daemons are killed before, and a busy machine takes its time."""

_FILE = "up"


@contextmanager
def held(run_dir: Path) -> Iterator[None]:
    """Be who runs this machine's part for the length of a block.

    Raises:
        MyxoError: another process is.
    """
    run_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (run_dir / _FILE).open("a+") as file:
        if not _locked(file.fileno()):
            raise MyxoError(f"another `myxo up` or `myxo join` is just starting in {run_dir}")
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def stop(run_dir: Path) -> bool:
    """Press Ctrl-C on who runs this machine's part; return, once it has ended, whether any did.

    Raises:
        MyxoError: it is another user's, or does not end in `DOWN_TIMEOUT_S`.
    """
    with suppress(FileNotFoundError), (run_dir / _FILE).open() as file:
        if _locked(file.fileno()) or not (text := file.read()):
            return False
        _interrupt(int(text))
        return True
    return False


def _interrupt(pid: int) -> None:
    with suppress(ProcessLookupError):
        process = os.pidfd_open(pid)
        try:
            signal.pidfd_send_signal(process, signal.SIGINT)
            ended, _, _ = select.select([process], [], [], DOWN_TIMEOUT_S)
        except PermissionError as exc:
            raise MyxoError(
                f"`myxo up` (pid {pid}) is another user's: stop it as that one"
            ) from exc
        finally:
            os.close(process)
        if not ended:
            raise MyxoError(f"process {pid} did not stop within {DOWN_TIMEOUT_S:g} s")


def _locked(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
