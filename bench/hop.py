"""A program that is run as a hop before a server, for the length of a block."""

import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from shutil import which

from bench.client import OK, AnswerFailed, ask
from bench.errors import HopMissing

READY_TIMEOUT_S = 20.0
_PATH = f"{Path(sys.executable).parent}:/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin"


def program(name: str) -> str:
    """Return where the program is, installed by PyPI or by Debian.

    Raises:
        HopMissing: nowhere.
    """
    found = which(name, path=_PATH)
    if found is None:
        raise HopMissing(f"{name} is not installed here: tools/setup.sh bench does that")
    return found


@contextmanager
def running(
    command: Sequence[str], log: Path, *, environment: Mapping[str, str] | None = None
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run `command`, which prints to `log`; it is killed at the end of the block."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def await_answer(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    """Return when the server behind the hop answers at `url`.

    Raises:
        AnswerFailed: the hop ended, or it takes too long; shows what it printed.
    """
    deadline = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if ask(url).status == OK:
                return
        except AnswerFailed:
            continue
        time.sleep(0.01)
    raise AnswerFailed(f"{process.args!r} does not answer:\n{log.read_text()}")
