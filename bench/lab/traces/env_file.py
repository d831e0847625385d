"""The queue simulator's `.env` files: `NAME=value` lines, as Docker Compose reads them."""

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

from bench.lab.errors import BadInput
from bench.lab.traces.rows import unreadable

TRACE = frozenset(
    {
        *("SAMPLES", "SIZE", "INTER_ARRIVAL", "READ_RATIO", "SAS"),
        *("DISTRIBUTION", "MEAN", "STDEV", "CONCURRENCY"),
    }
)
"""What a trace is made by."""

QUEUES = frozenset({"ST", "DELAY", "WORKERS", "BALANCER"})
"""What the simulator and the splitting are told."""

ENGINE = frozenset({"SERVER_IP", "SERVER_PORT", "API_VERSION"})
"""Where the Docker engine is that runs the workers."""

KNOWN = TRACE | QUEUES | ENGINE | {"TESTNO"}


def read_env(path: Path) -> dict[str, str]:
    """Return the variables of a file that have a value.

    Raises:
        BadInput: naming the line that is none, or whose name is not known.
    """
    try:
        return parsed_env(path.read_text().splitlines(), str(path))
    except (OSError, UnicodeDecodeError) as exc:
        raise unreadable(path, exc) from exc


def parsed_env(lines: Iterable[str], name: str) -> dict[str, str]:
    """Return the variables of lines; comments, empty lines and `export` are as in a shell.

    Raises:
        BadInput: naming the line that is none, or whose name is not known.
    """
    said: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        text = line.strip().removeprefix("export ").lstrip()
        if not text or text.startswith("#"):
            continue
        variable, equals, value = text.partition("=")
        variable = variable.strip()
        where = f"line {number} of {name}"
        if not equals:
            raise BadInput(f"{where} is {line.strip()!r}; a line is NAME=value")
        if variable not in KNOWN:
            near = get_close_matches(variable.upper(), sorted(KNOWN), 1)
            hint = (
                f"; did you mean {near[0]}?" if near else f"; there is {', '.join(sorted(KNOWN))}"
            )
            raise BadInput(f"{where} sets {variable!r}, which nothing here reads{hint}")
        if plain := _plain(value):
            said[variable] = plain
    return said


def _plain(value: str) -> str:
    """Return a value without its quotes, or without the comment behind it."""
    text = value.strip()
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1].strip()
    return text.partition(" #")[0].strip()
