"""Bars of maps: on a terminal, and nowhere else."""

import io
import os
import pty
import subprocess
import sys

from rich.console import Console

from myxo.mapping.progress import LATE_S, Bar, Board

TIMEOUT_S = 60.0

PROGRAM = """
import time, myxo
def slow(x):
    time.sleep(0.15)
    return x
print(sum(myxo.map_sync(slow, range(12), proxy={proxy!r}, chunk=1{more})))
"""


class Terminal:
    """A board on a terminal that keeps what is written there, with a clock that the test moves."""

    def __init__(self) -> None:
        self.written = io.StringIO()
        self.now = 0.0
        console = Console(file=self.written, force_terminal=True, width=100)
        self.board = Board(console, lambda: self.now)


def test_a_map_that_takes_a_moment_shows_no_bar() -> None:
    terminal = Terminal()
    bar = Bar(terminal.board, "f", 10)
    for _ in range(10):
        bar.advance(1)
    terminal.now = 10.0
    bar.end()
    assert terminal.written.getvalue() == ""


def test_bars_say_whose_they_are_and_how_far_and_go() -> None:
    terminal = Terminal()
    one, other = Bar(terminal.board, "render", 10), Bar(terminal.board, "[red]", None)
    terminal.now = LATE_S
    one.advance(3)
    other.advance(7)
    one.advance(1)
    one.end()
    other.end()
    written = terminal.written.getvalue()
    for said in ("render", "3/10", "[red]", "7/?"):
        assert said in written
    assert "\x1b[2K" in written[written.rindex("7/?") :], "the last line was cleared"


def run(worker: str, more: str = "") -> tuple[str, str]:
    """Run a program that maps, with a terminal as its standard error; return what it wrote."""
    mine, its = pty.openpty()
    program = PROGRAM.format(proxy=worker, more=more)
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=its, text=True
    ) as process:
        os.close(its)
        shown = b""
        while True:
            try:
                shown += os.read(mine, 65536)
            except OSError:  # the other end is closed
                break
        assert process.stdout is not None
        told = process.stdout.read()
        assert process.wait(TIMEOUT_S) == 0, shown.decode()
    os.close(mine)
    return told, shown.decode()


def test_a_bar_is_on_the_terminal_and_what_the_program_says_is_its_own(worker: str) -> None:
    told, shown = run(worker)
    assert told == "66\n"
    assert "slow" in shown
    assert "/12" in shown


def test_no_bar_where_none_is_wanted_or_there_is_no_terminal(worker: str) -> None:
    assert run(worker, ", progress=False") == ("66\n", "")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(proxy=worker, more="")],
        capture_output=True,
        text=True,
        check=True,
        timeout=TIMEOUT_S,
    )
    assert (done.stdout, done.stderr) == ("66\n", "")
