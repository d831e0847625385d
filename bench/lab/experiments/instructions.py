"""An experiment's instructions: commands for load hosts, one a line, read before any is done.

They are those of the lab's shell (`commands.py`). What only shows something to a person does
nothing here; `echo` becomes an event.
"""

from bench.lab.commands import STEPS, step_of
from bench.lab.errors import BadInput
from bench.lab.experiments.steps import Step
from myxo.line_shell import words_of

SHOWS = frozenset({"hosts", "clients", "info", "ping", "date"})

KNOWN = (*STEPS, *sorted(SHOWS), "exit")
"""A shell's other commands change what experiments beside this one see, or read files."""


def from_instructions(text: str) -> tuple[Step, ...]:
    """Return the steps that a text's lines are.

    Raises:
        BadInput: saying which line is wrong, and how; or that nothing is to be done.
    """
    steps: list[Step] = []
    for number, line in enumerate(text.splitlines(), 1):
        words = words_of(line)
        if words[:1] == ["exit"]:
            break
        try:
            steps += _steps(words)
        except BadInput as exc:
            raise BadInput(f"instructions, line {number}: {exc}") from exc
    if not steps:
        raise BadInput("instructions: there is no command in them")
    return tuple(steps)


def _steps(words: list[str]) -> list[Step]:
    if not words:
        return []
    name, *given = words
    if name not in KNOWN:
        raise BadInput(f"there is no command {name!r}; known: {', '.join(KNOWN)}")
    step = step_of(name, given)
    return [] if step is None else [step]
