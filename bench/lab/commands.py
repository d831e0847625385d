"""What a line of commands has load hosts do: the same in the lab's shell and in an experiment.

`words.py` of the shell says which commands there are and how many arguments they take; what the
arguments are is read here, before anything is done.

    spawn exphost squeezenet 1
    sleep 2
    rps exphost squeezenet 1                        # requests a second on each host that matches
    sleep 5
    request exphost squeezenet 100 expovariate:2    # so many of each client; waits for the last
    close exphost squeezenet
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence

from bench.lab.errors import BadInput
from bench.lab.experiments.steps import (
    CloseClients,
    Say,
    SendRequests,
    SetRate,
    Sleep,
    SpawnClients,
    Step,
)
from bench.lab.load_hosts import MAX_CLIENTS, MAX_COUNT, InterArrival
from bench.lab.loading.arrivals import parse_arrivals
from bench.lab.shell.words import LAB_WORDS
from myxo.line_shell import COMMON, MAX_SLEEP_S

_WORDS = {**LAB_WORDS, **COMMON}


def step_of(name: str, given: Sequence[str]) -> Step | None:
    """Return what a command has done; None if it only shows something, or is none for load hosts.

    Raises:
        BadInput: what follows the command is not what it takes.
    """
    word = _WORDS.get(name)
    if word is not None and not word.takes(given):
        raise BadInput(str(word.refusal()))
    make = _MAKES.get(name)
    return None if make is None else make(*given)


def _spawn(hosts: str, service: str, num: str = "1", app: str | None = None) -> Step:
    return SpawnClients(pattern(hosts), service, _whole(num, MAX_CLIENTS), app)


def _rps(hosts: str, service: str, rate: str) -> Step:
    return SetRate(pattern(hosts), service, _number(rate, "requests a second"))


def _request(hosts: str, service: str, count: str, gap: str = "") -> Step:
    return SendRequests(pattern(hosts), service, _whole(count, MAX_COUNT), _gap(gap))


def _close(hosts: str, service: str) -> Step:
    return CloseClients(pattern(hosts), service)


def _sleep(text: str) -> Step:
    return Sleep(_number(text, "seconds", MAX_SLEEP_S))


def _echo(*words: str) -> Step:
    return Say(" ".join(words))


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


def _whole(text: str, most: int) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:20]) <= most:
        raise BadInput(f"argument error: {text!r} is no number from 1 to {most}")
    return int(text)


def _number(text: str, what: str, most: float = math.inf) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= most or math.isinf(number):
        limit = "" if math.isinf(most) else f" up to {most:g}"
        raise BadInput(f"argument error: {text!r} are no {what}{limit}")
    return number


def _gap(text: str) -> InterArrival | None:
    if not text:
        return None
    arrivals = parse_arrivals(text)
    if arrivals.name == "constant":
        return arrivals.parameters[0]
    gap: tuple[str, *tuple[float, ...]] = (arrivals.name, *arrivals.parameters)
    return gap


_MAKES: Mapping[str, Callable[..., Step]] = {
    "spawn": _spawn,
    "rps": _rps,
    "request": _request,
    "close": _close,
    "sleep": _sleep,
    "echo": _echo,
}

STEPS = tuple(_MAKES)
"""The commands that load hosts have something to do by, in the order in which they are listed."""
