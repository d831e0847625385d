"""A program's own modules on their way to the machines that are to run them.

They travel in the service's definition, so that nothing else has to be there when a machine
starts an instance: no image, no share, no caller. What is installed does not travel; a service
names what it needs of that. What has no module to be imported from (a nested function, one typed
into an interpreter) travels as a pickle.
"""

import ast
import base64
import importlib
import importlib.util
import io
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import cloudpickle

from myxo.mapping.functions import is_own_file, pickled, send_own_modules_by_value
from myxo.serving.errors import NotFound, TooLarge

MAX_BYTES = 96 << 10
"""Of a packed program: every machine of the network holds every definition."""

PIECE = 4000
"""Signs of one variable; a definition's may have 4096."""

VARIABLE = "SERVICE_PROGRAM_"
ENTRY = "SERVICE_ENTRY"
PICKLE = "function.pickle"


@dataclass(frozen=True, slots=True)
class Program:
    """Files, and where in them the service is.

    Attributes:
        entry: `MODULE:NAME`, or `:` and the version of Python whose pickle it is.
        files: content by path below a folder that modules are imported from.
    """

    entry: str
    files: Mapping[str, bytes] = field(default_factory=dict)

    def environment(self) -> dict[str, str]:
        """Return the variables that carry it.

        Raises:
            TooLarge: it is over `MAX_BYTES`.
        """
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            for path, data in sorted(self.files.items()):
                # A fixed time, so that the same program is the same definition.
                archive.writestr(zipfile.ZipInfo(path), data, zipfile.ZIP_DEFLATED)
        if packed.tell() > MAX_BYTES:
            raise TooLarge(
                f"the program is {packed.tell()} bytes packed, and a definition carries "
                f"{MAX_BYTES}; it has {', '.join(sorted(self.files))}. Install what is large "
                "where it is to run, or make an image of it (registry-cli add)"
            )
        text = base64.b64encode(packed.getvalue()).decode()
        pieces = (text[at : at + PIECE] for at in range(0, len(text), PIECE))
        return {ENTRY: self.entry} | {f"{VARIABLE}{n}": piece for n, piece in enumerate(pieces)}


def unpack(environment: Mapping[str, str], folder: Path) -> None:
    """Write the program that an instance's environment carries below a folder."""
    pieces: list[str] = []
    while (piece := environment.get(f"{VARIABLE}{len(pieces)}")) is not None:
        pieces.append(piece)
    with zipfile.ZipFile(io.BytesIO(base64.b64decode("".join(pieces)))) as archive:
        archive.extractall(folder)


def program_of(target: Callable[..., Any], module: str, name: str) -> Program:
    """Return the program of what a module has under a name, or of a function without such a place.

    Raises:
        Unpicklable: it has no place, and cannot be pickled.
    """
    where = _importable_name(module)
    if where is None or "<" in name:
        send_own_modules_by_value()
        version = ".".join(map(str, sys.version_info[:2]))
        return Program(f":{version}", {PICKLE: pickled(target).data})
    return Program(f"{where}:{name}", own_sources(where))


def load(entry: str, folder: Path) -> Any:
    """Return what a program's entry names, out of the folder that it was unpacked to.

    Raises:
        NotFound: it is not there, or it was pickled by another version of Python.
    """
    module, _, name = entry.partition(":")
    if module:
        return find(module, name)
    own = ".".join(map(str, sys.version_info[:2]))
    if name != own:
        raise NotFound(
            f"the function was sent by Python {name} and this machine runs {own}; define it in "
            "a module, outside of other functions, or install Myxo with the same Python on both"
        )
    return cloudpickle.loads((folder / PICKLE).read_bytes())


def find(module: str, name: str) -> Any:
    """Return what a module has under a dotted name.

    Raises:
        NotFound: saying what is not there.
    """
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as exc:
        raise NotFound(f"{module} cannot be imported: {exc}") from exc
    for part in name.split("."):
        if not hasattr(found, part):
            raise NotFound(f"the module {module} has no {name}")
        found = getattr(found, part)
    return found


def own_sources(module: str) -> dict[str, bytes]:
    """Return the files of a module and of what it imports, as far as these are not installed."""
    sources: dict[str, bytes] = {}
    waiting, seen = [module], set[str]()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        spec = _spec(name)
        if spec is None or spec.origin is None or not is_own_file(name, spec.origin):
            continue
        path = Path(spec.origin)
        if path.suffix != ".py":
            continue
        inner = "__init__.py" if spec.submodule_search_locations is not None else ""
        as_path = name.replace(".", "/")
        source = path.read_bytes()
        sources[f"{as_path}/{inner}" if inner else f"{as_path}.py"] = source
        waiting += _imported(source, spec)
        if parent := name.rpartition(".")[0]:
            waiting.append(parent)
    return sources


def _imported(source: bytes, spec: importlib.machinery.ModuleSpec) -> Iterator[str]:
    """Yield the modules that a source may import, by what is written in it."""
    package = spec.name if spec.submodule_search_locations is not None else spec.parent or ""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            name = importlib.util.resolve_name(base, package) if node.level else base
            yield name
            yield from (f"{name}.{alias.name}" for alias in node.names if alias.name != "*")


def _spec(name: str) -> importlib.machinery.ModuleSpec | None:
    try:
        return importlib.util.find_spec(name)
    except (ImportError, AttributeError, ValueError):
        return None


def _importable_name(module: str) -> str | None:
    """Return the name under which another process imports a module."""
    if module != "__main__":
        return module if _spec(module) is not None else None
    main: ModuleType = sys.modules["__main__"]
    if spec := getattr(main, "__spec__", None):
        return str(spec.name)
    file = getattr(main, "__file__", None)
    name = Path(file).stem if file else ""
    return name if name.isidentifier() and _spec(name) is not None else None
