"""A shell of commands, a line each, from a person, a file or a pipe; others say which commands.

Every shell has `source`, `date`, `echo`, `sleep`, `help` and `exit`. What a command takes is read
off its usage, so that the two cannot differ.
"""

import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import trio

from overlay.errors import MyxoError

MAX_DEPTH = 8
"""Files that source each other."""

MAX_SLEEP_S = 7 * 86_400.0


class LineRefused(MyxoError):
    """A line is written wrongly, or one of a file failed."""


class Left(Exception):
    """`exit` was said."""


@dataclass(frozen=True, slots=True)
class Word:
    """A command of a shell, for its help.

    Attributes:
        usage: its name and its arguments, those in brackets optional, one in dots any number.
        summary: what it does, in a sentence.
        example: one line.
        parameters: what each argument is.
    """

    usage: str
    summary: str
    example: str
    parameters: Mapping[str, str] = field(default_factory=dict)

    def refusal(self) -> LineRefused:
        """Return what is said to who uses it wrongly."""
        return LineRefused(f"argument error: usage: {self.usage}")

    def takes(self, given: Sequence[str]) -> bool:
        """Whether these can be its arguments, by their number."""
        arguments = self.usage.split()[1:]
        least = sum(not a.startswith("[") for a in arguments)
        return least <= len(given) and (len(given) <= len(arguments) or arguments == ["[text]"])


COMMON: Mapping[str, Word] = {
    "source": Word(
        "source file",
        "Do the commands in a file, one a line; # begins a comment.",
        "source commands.txt",
        {"file": "its path"},
    ),
    "date": Word("date", "Show the time.", "date"),
    "echo": Word("echo [text]", "Show the text.", "echo set up", {"text": "anything"}),
    "sleep": Word("sleep seconds", "Wait.", "sleep 2.5", {"seconds": "fractions too"}),
    "help": Word(
        "help [command]",
        "Show all commands, or how one is used.",
        "help sleep",
        {"command": "its name"},
    ),
    "exit": Word("exit", "Leave.", "exit"),
}

Act = Callable[[str, Sequence[str]], Awaitable[None]]
"""Does a command of the shell's own, named first, with its arguments."""


class LineShell:
    """Does commands, a line each.

    Args:
        words: the shell's own commands.
        act: does one of them.
        echo: shows a line to the person.

    Attributes:
        words: all commands that it knows.
    """

    def __init__(
        self, words: Mapping[str, Word], act: Act, echo: Callable[[str], None] = print
    ) -> None:
        self.words = {**words, **COMMON}
        self._act = act
        self._echo = echo
        self._depth = 0

    async def run(self, line: str) -> None:
        """Do what a line says.

        Raises:
            LineRefused: it is written wrongly.
            MyxoError: what it asks for could not be done.
            Left: it says `exit`.
        """
        words = words_of(line)
        if not words:
            return
        name, given = words[0], words[1:]
        word = self._word(name)
        if not word.takes(given):
            raise word.refusal()
        match name:
            case "date":
                self._echo(datetime.now().astimezone().isoformat(sep=" ", timespec="seconds"))
            case "echo":
                self._echo(line.partition("echo")[2].strip())
            case "sleep":
                await trio.sleep(_seconds(given[0]))
            case "help":
                self._help(given)
            case "source":
                await self._source(Path(given[0]))
            case "exit":
                raise Left
            case _:
                await self._act(name, given)

    async def run_all(self, lines: Iterable[str], name: str) -> None:
        """Do all lines of what is called `name`, up to one that fails.

        Raises:
            LineRefused: saying which line did, and why.
            Left: one says `exit`.
        """
        for number, line in enumerate(lines, 1):
            with at_line(name, number):
                await self.run(line)

    async def _source(self, path: Path) -> None:
        if self._depth >= MAX_DEPTH:
            raise LineRefused(f"{path}: files source each other more than {MAX_DEPTH} deep")
        self._depth += 1
        try:
            with path.open(encoding="utf-8") as file:
                await self.run_all(file, str(path))
        except (OSError, UnicodeDecodeError) as exc:
            raise LineRefused(f"{path} cannot be read: {exc}") from exc
        finally:
            self._depth -= 1

    def _help(self, given: Sequence[str]) -> None:
        if given:
            self._help_on(self._word(given[0]))
            return
        self._echo("Commands (type help <command>):")
        width = max(map(len, self.words))
        for name, word in self.words.items():
            self._echo(f"  {name:{width}}  {word.summary}")

    def _help_on(self, word: Word) -> None:
        self._echo(f"Usage: {word.usage}\n\n  {word.summary} For example:\n\n  {word.example}")
        if word.parameters:
            self._echo("\nparameters:")
        for name, meaning in word.parameters.items():
            self._echo(f"  {name}: {meaning}")

    def _word(self, name: str) -> Word:
        if name not in self.words:
            raise LineRefused(f"there is no command {name!r}; known: {', '.join(self.words)}")
        return self.words[name]


def words_of(line: str) -> list[str]:
    """Return a line's command and its arguments; # begins a remark."""
    return line.partition("#")[0].split()


@contextmanager
def at_line(name: str, number: int) -> Iterator[None]:
    """For the block, say where in what is called `name` an error is.

    Raises:
        LineRefused: the block raised `MyxoError`.
    """
    try:
        yield
    except MyxoError as exc:
        raise LineRefused(f"{name}, line {number}: {exc}") from exc


def interact(run: Callable[[str], None], prompt: str, say: Callable[[str], None]) -> None:
    """Read lines from a person, who may make mistakes, until `exit` or Ctrl-D.

    Args:
        run: does one; Ctrl-C ends what it does and not the shell.
        prompt: shown before each.
        say: shows what was wrong.
    """
    while True:
        try:
            line = input(prompt)
        except (EOFError, KeyboardInterrupt):
            sys.stdout.write("\n")
            return
        try:
            run(line)
        except KeyboardInterrupt:
            say("interrupted")
        except Left:
            return
        except MyxoError as exc:
            say(str(exc))


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= MAX_SLEEP_S:
        raise LineRefused(f"argument error: {text!r} are no seconds from 0 to {MAX_SLEEP_S:g}")
    return seconds
