"""What the Tab key offers in the lab's shell, and the lines of earlier times."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from myxo.line_shell import Word

MAX_HISTORY = 1000
"""Lines that are kept."""


def offers(
    line: str, begun: str, words: Mapping[str, Word], hosts: Callable[[], Sequence[str]]
) -> list[str]:
    """Return what the word that has `begun` at the end of `line` may be.

    The first word is a command; after it come names of commands for `help`, and of hosts where the
    command's usage has a pattern of them.
    """
    before = line.removesuffix(begun).split()
    if not before:
        known: Sequence[str] = list(words)
    elif before == ["help"]:
        known = list(words)
    elif before[0] in words and _argument(words[before[0]], len(before)) == "host_pattern":
        known = hosts()
    else:
        known = ()
    return [one for one in known if one.startswith(begun)]


@contextmanager
def completing(
    words: Mapping[str, Word], hosts: Callable[[], Sequence[str]], history: Path
) -> Iterator[None]:
    """For the block, have `input` complete words and remember lines, where there is a readline."""
    try:
        import readline  # noqa: PLC0415  (not every Python has one)
    except ImportError:
        yield
        return

    def complete(begun: str, number: int) -> str | None:
        found = offers(readline.get_line_buffer()[: readline.get_endidx()], begun, words, hosts)
        return found[number] if number < len(found) else None

    readline.set_completer(complete)
    readline.set_completer_delims(" ")
    readline.parse_and_bind("tab: complete")
    readline.set_history_length(MAX_HISTORY)
    with suppress(OSError):
        readline.read_history_file(history)
    try:
        yield
    finally:
        with suppress(OSError):
            history.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            readline.write_history_file(history)


def _argument(word: Word, place: int) -> str:
    arguments = word.usage.split()[1:]
    return arguments[place - 1].strip("[]") if place <= len(arguments) else ""
