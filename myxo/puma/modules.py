"""The modules beside a program that its services import: they travel with them, as text.

What is installed is imported where a service runs; a module that lies in the program's own folder
is not there. So the texts of those that a text imports are found, and of those that they import.
Nothing is run.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

from myxo.puma.errors import SourceInvalid

PACKAGE = ".__init__"
MAX_MODULES = 200


def modules_beside(program: Path, text: str) -> dict[str, str]:
    """Return the texts, by name, of the modules in a program's folder that a text needs.

    Args:
        program: the program's file.
        text: of a module.

    Raises:
        SourceInvalid: one cannot be read, is no Python, or there are over `MAX_MODULES`.
    """
    found: dict[str, str] = {}
    waiting = list(_imported(text, "", program))
    while waiting:
        name = waiting.pop()
        for file, full in _files(program.parent, name):
            if full in found or file == program:
                continue
            if len(found) >= MAX_MODULES:
                raise SourceInvalid(f"over {MAX_MODULES} modules beside {program} are imported")
            try:
                found[full] = file.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as exc:
                raise SourceInvalid(f"the module {file} cannot be read: {exc}") from exc
            package = full.rpartition(".")[0]
            waiting += _imported(found[full], package, file)
    return found


def _files(folder: Path, name: str) -> Iterator[tuple[Path, str]]:
    """Yield the files that an import of `name` loads, if they are in a folder."""
    parts = name.split(".")
    for end in range(1, len(parts) + 1):
        path = folder.joinpath(*parts[:end])
        full = ".".join(parts[:end])
        if (inside := path / "__init__.py").is_file():
            yield inside, full + PACKAGE
        elif (file := path.with_name(path.name + ".py")).is_file():
            yield file, full
            return
        else:
            return


def _imported(text: str, package: str, file: Path) -> Iterator[str]:
    """Yield the names that a text imports, in full; also those that may be modules of a package."""
    try:
        tree = ast.parse(text)
    except SyntaxError as exc:
        raise SourceInvalid(f"{file} is no Python: {exc}") from exc
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _base(node, package)
            if base:
                yield base
            yield from (f"{base}.{a.name}".lstrip(".") for a in node.names if a.name != "*")


def _base(node: ast.ImportFrom, package: str) -> str:
    if not node.level:
        return node.module or ""
    parts = package.split(".")[: len(package.split(".")) - node.level + 1]
    return ".".join([*parts, *([node.module] if node.module else [])])
