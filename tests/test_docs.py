"""Runs the commands of the pages, as their reader would type them, and compares what they print.

In a block fenced as `console`, `$ ` starts a command (a backslash at its end continues it) and the
lines below it are what it prints; with none there, anything will do. `...` stands for any text in a
line, or for any lines if it stands alone. `<name>` in the output stands for one word, which later
commands of that page use as `<name>`, as a reader copies an address. The commands of a block
`console background` keep running, each in a terminal of its own, and may say more before and after
what the page shows; Ctrl-C at the end of the page stops them. `console no-run` is for what needs
another machine. In an `sh` block each line is a command.

The commands of a page share one shell, at the top of the checkout, with a home of its own. Where a
page has several headings of the first level, each begins a part that is read by itself. For root
all this is on a host of a lab: pages use well-known ports and the engine, and so do other tests.
"""

import os
import re
import select
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import pytest

from bench.netlab.testing import labs

ROOT = Path(__file__).resolve().parents[1]
PAGES = ["README.md", "docs/*.md", "demos/*/README.md"]
COMMAND_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 60.0
END = "end-of-command-7f3a"
WORD = re.compile(r"<([a-z][a-z0-9_-]*)>")


@dataclass
class Command:
    """A command of a page, and the lines that the page shows below it."""

    line: int
    text: str
    background: bool
    expected: list[str] = field(default_factory=list)


def commands_of(page: str) -> list[Command]:
    """Return the commands of a page's blocks that are to be run."""
    fence = re.compile(r"^```(console|sh)\b(.*?)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    commands: list[Command] = []
    for block in fence.finditer(page):
        options = set(block[2].split())
        assert options <= {"background", "no-run"}, f"what is ```{block[1]}{block[2]}?"
        if "no-run" not in options:
            first_line = page[: block.start(3)].count("\n") + 1
            commands += _of_block(block, first_line, background="background" in options)
    return commands


def _of_block(block: re.Match[str], first_line: int, *, background: bool) -> Iterator[Command]:
    command: Command | None = None
    for number, written in enumerate(block[3].splitlines(), first_line):
        text = written.removeprefix("$ ")
        if command is not None and command.text.endswith("\\"):
            command.text = command.text[:-1] + text.strip().removeprefix("> ").lstrip()
        elif text != written or (block[1] == "sh" and text and not text.startswith("#")):
            if command is not None:
                yield command
            command = Command(number, text, background)
        elif command is not None and block[1] == "console":
            command.expected.append(text)
    if command is not None:
        yield command


def matched(expected: list[str], printed: str, *, amid_more: bool) -> dict[str, str] | None:
    """Return the words that `<name>` stands for if `printed` is as `expected`, else None."""
    named: list[str] = []
    pattern = "".join(_line_pattern(line, named) for line in _trimmed(expected))
    text = "".join(f"{line.rstrip()}\n" for line in _trimmed(printed.splitlines()))
    found = re.match(rf"(?:.*\n)*?{pattern}" if amid_more else rf"{pattern}\Z", text)
    return None if found is None else dict(zip(named, found.groups(), strict=True))


def _line_pattern(line: str, named: list[str]) -> str:
    if line.strip() == "...":
        return r"(?:.*\n)*?"
    pattern = ""
    for piece in re.split(rf"({WORD.pattern.replace('(', '(?:')}|\.\.\.)", line.rstrip()):
        if piece == "...":
            pattern += ".*?"
        elif word := WORD.fullmatch(piece):
            named.append(word[1])
            pattern += r"(\S+?)"
        else:
            pattern += re.escape(piece)
    return pattern + r"\n"


def _trimmed(lines: list[str]) -> list[str]:
    kept = list(lines)
    while kept and not kept[-1].strip():
        kept.pop()
    while kept and not kept[0].strip():
        kept.pop(0)
    return kept


Act = Callable[[], "subprocess.Popen[bytes]"]


@dataclass(frozen=True)
class Machine:
    """Where pages are read.

    Attributes:
        environment: of its commands.
        inside: calls what starts a process, so that this is born there.
    """

    environment: Mapping[str, str]
    inside: Callable[[Act], "subprocess.Popen[bytes]"]

    def start(
        self, command: list[str], environment: Mapping[str, str], folder: str, stdin: int
    ) -> "subprocess.Popen[bytes]":
        """Start a command in a terminal of its own."""
        return self.inside(
            lambda: subprocess.Popen(
                command,
                cwd=folder,
                env=environment,
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        )


THIS = Machine(os.environ, lambda act: act())


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    """A machine for all pages, whose ports and engine nobody else uses if that can be made."""
    if os.geteuid() != 0:
        yield THIS
        return
    with labs() as lab:
        has_engine = shutil.which("dockerd") is not None
        (host,) = lab(hosts=[{"name": "reader", "engine": has_engine}]).hosts
        yield Machine(host.environment, host.inside)


class Reader:
    """The person in front of the terminals: types a page's commands and looks at what comes."""

    def __init__(self, machine: Machine, environment: Mapping[str, str], stack: ExitStack) -> None:
        self._words: dict[str, str] = {}
        self._machine = machine
        self._stack = stack
        shell = ["bash", "--noprofile", "--norc"]
        self._shell = machine.start(shell, environment, str(ROOT), subprocess.PIPE)
        stack.callback(_end_shell, self._shell)

    def follow(self, command: Command) -> None:
        """Type the command, and fail unless what it prints and its exit code are right."""
        text = WORD.sub(lambda found: self._words.get(found[1], found[0]), command.text)
        if command.background:
            self._in_own_terminal(command, text)
            return
        printed, code = self._type(text)
        assert code == 0, f"line {command.line}: `{text}` ended with {code}:\n{printed}"
        if command.expected:
            self._compare(command, printed, amid_more=False)

    def _type(self, text: str) -> tuple[str, int]:
        keyboard, screen = self._shell.stdin, self._shell.stdout
        assert keyboard is not None
        assert screen is not None
        line = f"eval {shlex.quote(text)} </dev/null; printf '\\n{END} %d\\n' $?\n"
        keyboard.write(line.encode())
        keyboard.flush()
        printed = ""
        for piece in _pieces(screen, COMMAND_TIMEOUT_S):
            printed += piece
            if end := re.search(rf"\n{END} (\d+)\n", printed):
                return printed[: end.start()], int(end[1])
        pytest.fail(f"`{text}` did not end in {COMMAND_TIMEOUT_S:g} s:\n{printed}")

    def _in_own_terminal(self, command: Command, text: str) -> None:
        assert command.expected, f"line {command.line}: what does `{text}` say once it is ready?"
        exported, _ = self._type("env -0")
        folder, _ = self._type("pwd")
        environment = dict(pair.split("=", 1) for pair in exported.split("\0") if "=" in pair)
        process = self._machine.start(
            ["bash", "-c", text], environment, folder.strip(), subprocess.DEVNULL
        )
        assert process.stdout is not None
        self._stack.callback(_interrupt, process, text)
        printed = ""
        for piece in _pieces(process.stdout, COMMAND_TIMEOUT_S):
            printed += piece
            if matched(command.expected, printed, amid_more=True) is not None:
                break
        self._compare(command, printed, amid_more=True)

    def _compare(self, command: Command, printed: str, *, amid_more: bool) -> None:
        expected = [
            WORD.sub(lambda found: self._words.get(found[1], found[0]), line)
            for line in command.expected
        ]
        words = matched(expected, printed, amid_more=amid_more)
        assert words is not None, (
            f"line {command.line}: `{command.text}` printed\n{printed}\nand the page says\n"
            + "\n".join(expected)
        )
        self._words |= words


def _pieces(stream: IO[bytes], timeout_s: float) -> Iterator[str]:
    """Yield what comes from `stream` until it ends or the time is over."""
    deadline = time.monotonic() + timeout_s
    while (left := deadline - time.monotonic()) > 0:
        if select.select([stream], [], [], left)[0]:
            if not (data := os.read(stream.fileno(), 65536)):
                return
            yield data.decode(errors="replace")


def _interrupt(process: subprocess.Popen[bytes], text: str) -> None:
    assert process.stdout is not None
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGINT)
    try:
        rest, _ = process.communicate(timeout=STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        pytest.fail(f"`{text}` did not stop within {STOP_TIMEOUT_S:g} s of Ctrl-C")
    sys.stdout.write(f"$ {text}\n{rest.decode(errors='replace')}")  # for when the page fails


def _end_shell(shell: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(shell.pid, signal.SIGKILL)  # a command that a page left running ends here
    shell.communicate()


@contextmanager
def reader(home: Path, machine: Machine = THIS) -> Iterator[Reader]:
    """Run a shell whose home is `home`, which finds the commands of this checkout first."""
    commands = home / "bin"
    commands.mkdir()
    if shutil.which("sudo") is None:
        (commands / "sudo").write_text('#!/bin/sh\nexec "$@"\n')
        (commands / "sudo").chmod(0o755)
    path = f"{commands}:{Path(sys.executable).parent}:{machine.environment['PATH']}:/usr/sbin"
    hidden = ("MYXO_", "P2P_", "XDG_", "NOTIFY_", "COLUMNS", "BASH_ENV")
    kept = {k: v for k, v in machine.environment.items() if not k.startswith(hidden)}
    with ExitStack() as stack:
        yield Reader(machine, kept | {"HOME": str(home), "PATH": path, "TERM": "dumb"}, stack)


def parts_of(page: str) -> list[tuple[str, list[Command]]]:
    """Return the heading and the commands of each part of a page that has any."""
    fence = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
    unfenced = fence.sub(lambda block: "\n" * block[0].count("\n"), page)
    headings = [
        (number, line.removeprefix("# "))
        for number, line in enumerate(unfenced.splitlines(), 1)
        if line.startswith("# ")
    ]
    ends = [number for number, _ in headings[1:]] + [page.count("\n") + 2]
    commands = commands_of(page)
    parts = [
        (title, [command for command in commands if begin <= command.line < end])
        for (begin, title), end in zip(headings, ends, strict=True)
    ]
    return [(title, inside) for title, inside in parts if inside]


def _page_cases() -> Iterator[object]:
    for path in sorted(path for pattern in PAGES for path in ROOT.glob(pattern)):
        parts = parts_of(path.read_text())
        for title, commands in parts:
            marks = [pytest.mark.slow, pytest.mark.timeout(900)]
            if os.geteuid() == 0:
                marks.append(pytest.mark.netns)
            if any(word in c.text for c in commands for word in ("docker", "myxo up", "image")):
                marks.append(pytest.mark.docker)
            if any("etcd" in c.text for c in commands):
                marks.append(pytest.mark.etcd)
            name = str(path.relative_to(ROOT)) + (f"#{title}" if len(parts) > 1 else "")
            yield pytest.param(commands, marks=marks, id=name)


@pytest.mark.parametrize("commands", list(_page_cases()))
def test_a_page_does_what_it_says(
    commands: list[Command], machine: Machine, tmp_path: Path
) -> None:
    with reader(tmp_path, machine) as person:
        for command in commands:
            person.follow(command)


SAMPLE = """
```console background
$ echo address: 10.0.0.1; exec sleep 600
address: <where>
```
```console
$ cd /tmp && export GREETING=hello
$ echo $GREETING \\
>   <where>; pwd
hello 10...
/tmp
$ seq 1 9
1
...
9
```
```console no-run
$ false
```
```sh
# a remark
true
```
"""


def test_a_page_is_read_as_its_blocks_say() -> None:
    commands = commands_of(SAMPLE)
    assert [(c.text.split()[0], c.background) for c in commands] == [
        ("echo", True),
        ("cd", False),
        ("echo", False),
        ("seq", False),
        ("true", False),
    ]
    assert commands[2].text == "echo $GREETING <where>; pwd"
    assert commands[3].expected == ["1", "...", "9"]


def test_a_page_of_several_parts_is_read_part_by_part() -> None:
    more = "## More\n```sh\ntrue\n```\n# None\n# Two\n```sh\n# no heading\nfalse\n```\n"
    page = f"# One\n{SAMPLE}\n{more}"
    parts = [(title, [c.text.split()[0] for c in inside]) for title, inside in parts_of(page)]
    assert [title for title, _ in parts] == ["One", "Two"]
    assert parts[0][1] == [c.text.split()[0] for c in commands_of(SAMPLE)] + ["true"]
    assert parts[1][1] == ["false"]


def test_a_right_page_passes(tmp_path: Path) -> None:
    with reader(tmp_path) as person:
        for command in commands_of(SAMPLE):
            person.follow(command)


@pytest.mark.parametrize(
    "wrong",
    [
        "```console\n$ echo one\ntwo\n```\n",
        "```console\n$ false\n```\n",
        "```console\n$ printf 'one\\nmore\\n'\none\n```\n",
        "```console background\n$ echo other\nready\n```\n",
        "```sh\nno-such-command-here\n```\n",
    ],
)
def test_a_wrong_page_fails(wrong: str, tmp_path: Path) -> None:
    (command,) = commands_of(wrong)
    with reader(tmp_path) as person, pytest.raises(AssertionError, match=r"line \d+"):
        person.follow(command)
