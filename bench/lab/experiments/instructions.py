"""Commands for load hosts, one a line, as the shell has them, read before any of them is done.

    spawn exphost squeezenet 1
    sleep 2
    rps exphost squeezenet 1      # requests a second on each host that matches
    sleep 5
    close exphost squeezenet

Commands that only show something to a person do nothing here; `echo` becomes an event.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence

from bench.lab.errors import BadInput
from bench.lab.experiments.steps import CloseClients, Say, SetRate, Sleep, SpawnClients, Step

MAX_CLIENTS = 1000
"""That one command starts on each host."""

MAX_SLEEP_S = 7 * 86_400.0

_SHOWS = frozenset({"hosts", "clients", "info", "ping", "date"})


def from_instructions(text: str) -> tuple[Step, ...]:
    """Return the steps that a text's lines are.

    Raises:
        BadInput: saying which line is wrong, and how; or that nothing is to be done.
    """
    steps: list[Step] = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words or words[0] in _SHOWS:
            continue
        if words[0] == "exit":
            break
        try:
            steps.append(_step(words))
        except BadInput as exc:
            raise BadInput(f"instructions, line {number}: {exc}") from exc
    if not steps:
        raise BadInput("instructions: there is no command in them")
    return tuple(steps)


def _step(words: Sequence[str]) -> Step:
    name, given = words[0], words[1:]
    if name == "echo":
        return Say(" ".join(given))
    if name not in _COMMANDS:
        known = ", ".join(sorted({*_COMMANDS, *_SHOWS, "echo", "exit"}))
        raise BadInput(f"there is no command {name!r}; known: {known}")
    usage, least, most, make = _COMMANDS[name]
    if not least <= len(given) <= most:
        raise BadInput(f"argument error: usage: {name} {usage}")
    return make(given)


def _spawn(given: Sequence[str]) -> Step:
    num = given[2] if len(given) > 2 else "1"
    if not num.isascii() or not num.isdigit() or not 1 <= int(num) <= MAX_CLIENTS:
        raise BadInput(f"argument error: {num!r} is no number of clients from 1 to {MAX_CLIENTS}")
    return SpawnClients(pattern(given[0]), given[1], int(num))


def _rps(given: Sequence[str]) -> Step:
    return SetRate(pattern(given[0]), given[1], _number(given[2], "requests a second"))


def _close(given: Sequence[str]) -> Step:
    return CloseClients(pattern(given[0]), given[1])


def _sleep(given: Sequence[str]) -> Step:
    return Sleep(_number(given[0], "seconds", MAX_SLEEP_S))


def pattern(text: str) -> str:
    """Return a pattern of host names once it is certain that it is one.

    Raises:
        BadInput: it is no regular expression.
    """
    try:
        re.compile(text)
    except re.error as exc:
        raise BadInput(f"{text!r} is no regular expression of host names: {exc}") from exc
    return text


def _number(text: str, what: str, most: float = math.inf) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= most or math.isinf(number):
        limit = "" if math.isinf(most) else f" up to {most:g}"
        raise BadInput(f"argument error: {text!r} are no {what}{limit}")
    return number


_COMMANDS: Mapping[str, tuple[str, int, int, Callable[[Sequence[str]], Step]]] = {
    "spawn": ("host_pattern service [num]", 2, 3, _spawn),
    "rps": ("host_pattern service rps", 3, 3, _rps),
    "close": ("host_pattern service", 2, 2, _close),
    "sleep": ("seconds", 1, 1, _sleep),
}
