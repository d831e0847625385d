"""Custom clients: Python that says what each request is.

A client is a file, or a directory with `manifest.yml`, which names it, and `generator.py`. Its code
has a function `next_request()` that returns method, path and keyword arguments, as `requests` takes
them; what the experiment set is in `context.parameters`. The code runs in whatever process calls
`load`, with its rights: that is to be a client's own process, never a daemon's.
"""

import ast
import importlib.util
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any

import yaml

from bench.lab.errors import BadInput, LoadFailed
from bench.lab.loading.messages import Message, message
from bench.lab.loading.target import Target

MANIFEST, GENERATOR, FUNCTION = "manifest.yml", "generator.py", "next_request"


@dataclass(frozen=True, slots=True)
class Context:
    """What a client's code finds as `context`.

    Attributes:
        parameters: what the experiment set for it.
        client: its id.
        random: what it may draw from, so that a seeded experiment repeats.
    """

    parameters: Mapping[str, Any]
    client: str
    random: Random


@dataclass(frozen=True, slots=True)
class CustomClient:
    """A client's code, which has not run yet.

    Attributes:
        name: by the manifest, or the file's.
        code: the file with `next_request`.
    """

    name: str
    code: Path

    def load(self, context: Context) -> Callable[[], object]:
        """Run the code and return its `next_request`.

        Raises:
            BadInput: it raises, or has no such function.
        """
        module = _run(self.name, self.code, context)
        function: Callable[[], object] | None = getattr(module, FUNCTION, None)
        if not callable(function):
            raise BadInput(f"client {self.name}: {self.code} has no function {FUNCTION}()")
        return function


def find_client(path: Path) -> CustomClient:
    """Return the client in a file or directory, and run nothing of it.

    Raises:
        BadInput: there is none; the message says what is missing.
    """
    if path.is_dir():
        client = CustomClient(_name_in(path / MANIFEST), path / GENERATOR)
    else:
        client = CustomClient(path.stem, path)
    _check_code(client)
    return client


def messages(
    client: CustomClient, target: Target, context: Context, *, explained: bool = False
) -> Callable[[], Message]:
    """Return what makes each request by a client's code.

    Raises:
        BadInput: the code cannot be loaded.
    """
    next_request = client.load(context)

    def next_message() -> Message:
        try:
            asked = next_request()
        except Exception as exc:
            raise LoadFailed(f"client {client.name}: {FUNCTION}() raised {_what(exc)}") from exc
        try:
            return message(target, *_checked(asked), explained=explained)
        except BadInput as exc:
            raise LoadFailed(f"client {client.name}: {FUNCTION}(): {exc}") from exc

    return next_message


def _checked(asked: object) -> tuple[str, str, Mapping[str, Any]]:
    match asked:
        case (str(method), str(path)):
            return method, path, {}
        case (str(method), str(path), None):
            return method, path, {}
        case (str(method), str(path), Mapping() as kwargs):
            return method, path, kwargs
    raise BadInput(f"it returned {asked!r:.80}, which is not (method, path, kwargs)")


def _name_in(manifest: Path) -> str:
    try:
        said = yaml.safe_load(manifest.read_text())
    except OSError as exc:
        raise BadInput(f"{manifest} cannot be read: {exc.strerror}") from exc
    except (yaml.YAMLError, UnicodeDecodeError) as exc:
        raise BadInput(f"{manifest} is no YAML: {exc}") from exc
    name = said.get("name") if isinstance(said, dict) else None
    if not isinstance(name, str) or not name:
        raise BadInput(f"{manifest} does not say `name: NAME`")
    return name


def _check_code(client: CustomClient) -> None:
    try:
        tree = ast.parse(client.code.read_bytes(), str(client.code))
    except OSError as exc:
        raise BadInput(f"client {client.name}: {client.code}: {exc.strerror}") from exc
    except (SyntaxError, ValueError) as exc:
        raise BadInput(f"client {client.name}: {exc}") from exc
    if FUNCTION not in {name for node in tree.body for name in _names(node)}:
        raise BadInput(f"client {client.name}: {client.code} has no function {FUNCTION}()")


def _names(node: ast.stmt) -> list[str]:
    match node:
        case ast.FunctionDef(name=name):
            return [name]
        case ast.ImportFrom(names=names) | ast.Import(names=names):
            return [one.asname or one.name for one in names]
        case ast.Assign(targets=targets):
            return [one.id for one in targets if isinstance(one, ast.Name)]
    return []


def _run(name: str, code: Path, context: Context) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"myxo_lab_client_{code.stem}", code)
    if spec is None or spec.loader is None:
        raise BadInput(f"client {name}: {code} is no Python file")
    module = importlib.util.module_from_spec(spec)
    module.__dict__["context"] = context
    sys.path.insert(0, str(code.parent))  # for modules beside it; the process is the client's own
    try:
        spec.loader.exec_module(module)
    except Exception as exc:
        raise BadInput(f"client {name}: {code} cannot be loaded: {_what(exc)}") from exc
    return module


def _what(exc: Exception) -> str:
    traceback, line = exc.__traceback__, 0
    while traceback is not None:
        line, traceback = traceback.tb_lineno, traceback.tb_next
    return f"{type(exc).__name__}: {exc} (line {line})"
