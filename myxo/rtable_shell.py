"""The shell of `myxo rtable`: a command a line, from a person, a file or a pipe."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from myxo.rtable import Ask, RtableFailed, as_text, command

MAX_DEPTH = 8
"""Files that source each other."""

MAX_SLEEP_S = 86_400.0


class Left(Exception):
    """`exit` was said."""


@dataclass(frozen=True, slots=True)
class Word:
    """A command of the shell, for its help."""

    usage: str
    summary: str
    example: str
    parameters: Mapping[str, str]


WORDS: Mapping[str, Word] = {
    "set": Word(
        "set service hosts [weights]",
        "Send requests for a service to these hosts, from the next one on.",
        "set squeezenet heisenberg:8080,einstein:8080 1,2",
        {
            "service": "the service's name; it need not be registered",
            "hosts": "HOST:PORT of each target, separated by commas",
            "weights": "how much each gets, in proportion, fractions too; equal if left out",
        },
    ),
    "unset": Word(
        "unset service",
        "Let the network decide again where requests for a service go.",
        "unset squeezenet",
        {"service": "the service's name"},
    ),
    "clear": Word("clear", "Unset all services.", "clear", {}),
    "list": Word("list", "Show all services, hosts and weights.", "list", {}),
    "updates": Word(
        "updates [follow]",
        "Show the changes of the table; with follow each new one, until Ctrl-C.",
        "updates",
        {"follow": "the word itself"},
    ),
    "flush": Word(
        "flush", "Forget the changes that `updates` shows; the table stays.", "flush", {}
    ),
    "info": Word("info", "Show which proxies the commands go to.", "info", {}),
    "source": Word(
        "source file",
        "Do the commands in a file, one a line; # begins a comment.",
        "source routes.txt",
        {"file": "its path"},
    ),
    "date": Word("date", "Show the time.", "date", {}),
    "echo": Word("echo [text]", "Show the text.", "echo set up", {"text": "anything"}),
    "sleep": Word("sleep seconds", "Wait.", "sleep 2.5", {"seconds": "fractions too"}),
    "help": Word(
        "help [command]",
        "Show all commands, or how one is used.",
        "help set",
        {"command": "its name"},
    ),
    "exit": Word("exit", "Leave.", "exit", {}),
}


class Shell:
    """Does commands, a line each.

    Args:
        ask: has the proxies do them.
        follow: shows changes as they come, until it is interrupted.
        echo: shows a line to the person.
    """

    def __init__(
        self, ask: Ask, follow: Callable[[], None], echo: Callable[[str], None] = print
    ) -> None:
        self._ask = ask
        self._follow = follow
        self._echo = echo
        self._depth = 0

    def run(self, line: str) -> None:
        """Do what a line says.

        Raises:
            RtableFailed: it is written wrongly, or was refused.
            Left: it says `exit`.
        """
        words = line.partition("#")[0].split()
        if not words:
            return
        name, given = words[0], words[1:]
        if name not in WORDS:
            raise RtableFailed(f"there is no command {name!r}; known: {', '.join(WORDS)}")
        least, most = _counts(WORDS[name])
        if not least <= len(given) <= most:
            raise RtableFailed(f"argument error: usage: {WORDS[name].usage}")
        match name:
            case "date":
                self._echo(datetime.now().astimezone().isoformat(sep=" ", timespec="seconds"))
            case "echo":
                self._echo(line.partition("echo")[2].strip())
            case "sleep":
                time.sleep(_seconds(given[0]))
            case "help":
                self._help(given)
            case "source":
                self._source(Path(given[0]))
            case "exit":
                raise Left
            case _:
                self._act(name, given)

    def _act(self, name: str, given: Sequence[str]) -> None:
        if name == "updates" and given:
            if given[0] != "follow":
                raise RtableFailed(f"argument error: usage: {WORDS[name].usage}")
            self._follow()
            return
        answers = self._ask(command(name, given))
        for line in as_text(name, answers):
            self._echo(line)

    def _source(self, path: Path) -> None:
        if self._depth >= MAX_DEPTH:
            raise RtableFailed(f"{path}: files source each other more than {MAX_DEPTH} deep")
        self._depth += 1
        try:
            with path.open(encoding="utf-8") as file:
                self.run_all(file, str(path))
        except (OSError, UnicodeDecodeError) as exc:
            raise RtableFailed(f"{path} cannot be read: {exc}") from exc
        finally:
            self._depth -= 1

    def run_all(self, lines: Iterable[str], name: str) -> None:
        """Do all lines of what is called `name`, up to one that fails.

        Raises:
            RtableFailed: saying which line did.
            Left: one says `exit`.
        """
        for number, line in enumerate(lines, 1):
            try:
                self.run(line)
            except RtableFailed as exc:
                raise RtableFailed(f"{name}, line {number}: {exc}") from exc

    def _help(self, given: Sequence[str]) -> None:
        if not given:
            self._echo("Commands (type help <command>):")
            width = max(map(len, WORDS))
            for name, word in WORDS.items():
                self._echo(f"  {name:{width}}  {word.summary}")
            return
        if given[0] not in WORDS:
            raise RtableFailed(f"there is no command {given[0]!r}; known: {', '.join(WORDS)}")
        word = WORDS[given[0]]
        self._echo(f"Usage: {word.usage}\n\n  {word.summary} For example:\n\n  {word.example}")
        if word.parameters:
            self._echo("\nparameters:")
        for name, meaning in word.parameters.items():
            self._echo(f"  {name}: {meaning}")


def _counts(word: Word) -> tuple[int, float]:
    """Return how many arguments a command takes, from its usage."""
    arguments = word.usage.split()[1:]
    least = sum(not a.startswith("[") for a in arguments)
    return least, float("inf") if arguments == ["[text]"] else len(arguments)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= MAX_SLEEP_S:
        raise RtableFailed(f"argument error: {text!r} are no seconds from 0 to {MAX_SLEEP_S:g}")
    return seconds
