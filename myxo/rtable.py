"""Commands on the routing tables of this machine's proxies."""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import trio

from myxo.status import ANSWER_TIMEOUT_S, NothingRuns, control_sockets
from overlay.control import open_control
from overlay.errors import MyxoError, PeerUnreachable

Answer = Mapping[str, Any]
Ask = Callable[[Mapping[str, Any]], Sequence[Answer]]
"""Has each proxy do a command; the answers tell, as `proxy`, which it was."""

MAX_DEPTH = 8
"""Files that source each other."""


class RtableFailed(MyxoError):
    """A command on the routing table was refused, or written wrongly."""


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


def command(name: str, given: Sequence[str]) -> dict[str, Any]:
    """Return what a proxy is sent for a command on its table.

    Raises:
        RtableFailed: a weight is no number.
    """
    if name == "unset":
        return {"do": name, "service": given[0]}
    if name != "set":
        return {"do": name}
    weights = None
    if len(given) > 2:  # noqa: PLR2004
        try:
            weights = [float(weight) for weight in given[2].split(",")]
        except ValueError as exc:
            raise RtableFailed(f"argument error: {given[2]!r} are no weights, such as 1,2") from exc
    return {"do": name, "service": given[0], "hosts": given[1].split(","), "weights": weights}


def as_text(name: str, answers: Sequence[Answer]) -> Iterator[str]:
    """Yield what a person reads of the proxies' answers; the same one is shown once.

    Raises:
        RtableFailed: a proxy refused.
    """
    shown: list[list[str]] = []
    for answer in answers:
        if "error" in answer:
            raise RtableFailed(f"proxy {answer['proxy']}: {answer['error']}")
        lines = list(_lines(name, answer))
        if lines not in shown:
            shown.append(lines)
            if len(shown) > 1 or (len(answers) > 1 and name in {"list", "updates"}):
                yield f"proxy {answer['proxy']}:"
            yield from lines


def _lines(name: str, answer: Answer) -> Iterator[str]:
    match name:
        case "set":
            yield f"ok {_record(answer['record'])}"
        case "unset" | "clear":
            yield f"ok, {answer['unset']} unset"
        case "flush":
            yield f"ok, {answer['flushed']} forgotten"
        case "list":
            yield from _table(answer["records"])
        case "updates":
            yield from (update_line(update) for update in answer["updates"])
        case "info":
            yield (
                f"proxy {answer['proxy']}: {answer['services']} services, {answer['targets']} "
                f"targets, {answer['updates']} updates; kept in {answer['file'] or 'no file'}"
            )


def update_line(update: Answer) -> str:
    """Return a change as a person reads it."""
    at = datetime.fromtimestamp(update["at"]).astimezone().strftime("%H:%M:%S.%f")[:-3]
    if update["record"] is None:
        return f"{at}  {update['service']} unset"
    return f"{at}  {_record(update['record'])}"


def _record(record: Answer) -> str:
    weights = ", ".join(f"{weight:g}" for weight in record["weights"])
    return f"{record['service']}: {', '.join(record['hosts'])} at {weights}"


def _table(records: Sequence[Answer]) -> Iterator[str]:
    rows = [("Service", "Hosts", "Weights")]
    for record in records:
        weights = ",".join(f"{weight:g}" for weight in record["weights"])
        rows.append((record["service"], ",".join(record["hosts"]), weights))
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    for row in rows:
        yield f"{row[0]:{widths[0]}}  {row[1]:{widths[1]}}  {row[2]}"


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
    if not 0 <= seconds <= 86_400:  # noqa: PLR2004  (a day)
        raise RtableFailed(f"argument error: {text!r} are no seconds from 0 to 86400")
    return seconds


def ask_proxies(state_dir: Path, port: int | None) -> Ask:
    """Return what has the proxies of this machine do a command, or the one at `port`."""

    def ask(given: Mapping[str, Any]) -> Sequence[Answer]:
        return trio.run(_ask, state_dir, port, given)

    return ask


def follow_proxies(
    state_dir: Path, port: int | None, show: Callable[[Answer], None]
) -> Callable[[], None]:
    """Return what shows each change of the proxies' tables, until it is interrupted."""

    def follow() -> None:
        try:
            trio.run(_follow, state_dir, port, show)
        except* KeyboardInterrupt:
            pass

    return follow


def _proxies(state_dir: Path, port: int | None) -> list[Path]:
    pattern = "proxy-*.sock" if port is None else f"proxy-{port}.sock"
    found = [path for path in control_sockets(state_dir) if path.match(pattern)]
    if not found:
        where = "" if port is None else f" at port {port}"
        raise NothingRuns(f"no proxy runs here{where} (looked in {state_dir / 'run'})")
    return found


async def _ask(state_dir: Path, port: int | None, given: Mapping[str, Any]) -> list[Answer]:
    answers: list[Answer] = []
    for path in _proxies(state_dir, port):
        try:
            with trio.fail_after(ANSWER_TIMEOUT_S):
                async with open_control(path, "rtable") as connection:
                    await connection.send(given)
                    line = await connection.receive()
        except (PeerUnreachable, trio.TooSlowError):
            continue
        if line is not None:
            name = path.stem.removeprefix("proxy-")
            answers.append({"proxy": name, **json.loads(line)})
    if not answers:
        raise NothingRuns(f"no proxy answers (looked in {state_dir / 'run'})")
    return answers


async def _follow(state_dir: Path, port: int | None, show: Callable[[Answer], None]) -> None:
    async with trio.open_nursery() as nursery:
        for path in _proxies(state_dir, port):
            nursery.start_soon(_follow_one, path, show)


async def _follow_one(path: Path, show: Callable[[Answer], None]) -> None:
    async with open_control(path, "rtable") as connection:
        await connection.send({"do": "follow"})
        while (line := await connection.receive()) is not None:
            update = json.loads(line)
            if "service" in update:
                show(update)
