"""A service's code, from whatever a program gives: a function, its source, or its lines."""

import inspect
import textwrap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from myxo.puma.errors import SourceInvalid
from myxo.puma.modules import modules_beside
from myxo.puma.shipping import MODULE
from myxo.puma.slicing import Program, functions

Given = Callable[..., Any] | str | Iterable[Any]


@dataclass(frozen=True, slots=True)
class Source:
    """What a service runs.

    Attributes:
        function: the one that answers requests.
        modules: the texts of its module, `MODULE`, and of those beside the program that it imports.
            The names of packages end in `.__init__`.
    """

    function: str
    modules: Mapping[str, str]


def source_of(key: str, given: Given, program_file: Path | None) -> Source:
    """Return the code of the service `key`.

    Args:
        key: its name among the program's services.
        given: a function, its source, or what `inspect.getsourcelines` returns.
        program_file: the caller's, with what the source uses and does not define; None: there is
            none, as at a prompt.

    Raises:
        SourceInvalid: it cannot be used; says why.
    """
    text, file = _text(key, given, program_file)
    try:
        name = _answering(key, text)
        program = Program("" if file is None else file.read_text(encoding="utf-8"))
        used, lacking = program.slice(text)
    except SyntaxError as exc:
        raise SourceInvalid(f"the source of {key} is no Python: {exc}") from exc
    except OSError as exc:
        raise SourceInvalid(f"the program of {key} cannot be read: {exc}") from exc
    if lacking:
        names = ", ".join(sorted(lacking))
        raise SourceInvalid(
            f"{key} uses {names}, which neither its source nor the top of its program defines"
        )
    modules = {MODULE: f"{used}\n\n{text}"}
    if file is not None:
        modules |= modules_beside(file, modules[MODULE])
    return Source(name, modules)


def _text(key: str, given: Given, program_file: Path | None) -> tuple[str, Path | None]:
    """Return the source, and the file of what it uses."""
    match given:
        case str():
            return textwrap.dedent(given), program_file
        case [[*lines], int()] if all(isinstance(line, str) for line in lines):
            return textwrap.dedent("".join(lines)), program_file
        case _ if inspect.isfunction(given):
            return _of_function(key, given)
        case _:
            raise SourceInvalid(
                f"{key} is {given!r:.60}; give a function, its source, or what "
                "inspect.getsourcelines(function) returns"
            )


def _of_function(key: str, function: Callable[..., Any]) -> tuple[str, Path | None]:
    if function.__name__ == "<lambda>":
        raise SourceInvalid(f"{key} is a lambda, which has no name to be called by; give a def")
    captured = inspect.getclosurevars(function).nonlocals
    if captured:
        raise SourceInvalid(
            f"{key} uses {', '.join(sorted(captured))} of the function around it, which is not "
            "there where it runs"
        )
    try:
        file = inspect.getsourcefile(function)
        text = textwrap.dedent(inspect.getsource(function))
    except (OSError, TypeError) as exc:
        raise SourceInvalid(f"the source of {key} cannot be had: {exc}; give it as text") from exc
    return text, None if file is None or not Path(file).is_file() else Path(file)


def _answering(key: str, text: str) -> str:
    """Return the function that answers: the one that is named as its service, or the only one."""
    found = functions(text)
    if key in found:
        return key
    if len(found) != 1:
        has = f"has {', '.join(found)}" if found else "has no function"
        raise SourceInvalid(f"the source of {key} {has}; it has one, or one named {key}")
    return found[0]
