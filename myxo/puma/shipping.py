"""Modules as text, on their way to the process that imports them: they travel in its environment.

Where a service runs is decided late, and by others, so its code goes where its definition goes. It
is compressed, and cut into as many variables as an environment's texts allow.
"""

import base64
import importlib.abc
import importlib.machinery
import importlib.util
import json
import sys
import zlib
from collections.abc import Mapping, Sequence
from types import ModuleType

MODULE = "puma_service"
"""The name of a service's module where it runs."""

FUNCTION = "PUMA_FUNCTION"
"""The variable that names the function in it that answers."""

VARIABLE = "PUMA_CODE_{}"
PIECE = 4096
"""Characters of one variable, as definitions have them."""

MAX_PIECES = 14
"""A definition has 64 KiB, and some other things to say."""

MAX_TEXT = 16 * 1024 * 1024
"""Characters that a process takes the trouble to unpack."""


def packed(modules: Mapping[str, str]) -> dict[str, str]:
    """Return variables that hold modules, by name, or too many of them (`MAX_PIECES`)."""
    text = json.dumps(modules, sort_keys=True).encode()
    data = base64.b85encode(zlib.compress(text, 9)).decode()
    pieces = [data[at : at + PIECE] for at in range(0, len(data), PIECE)]
    return {VARIABLE.format(number): piece for number, piece in enumerate(pieces)}


def unpacked(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the modules that an environment holds.

    Raises:
        ValueError: it holds none.
    """
    data = ""
    for number in range(MAX_PIECES):
        data += environment.get(VARIABLE.format(number), "")
    try:
        text = zlib.decompressobj().decompress(base64.b85decode(data), MAX_TEXT)
        modules = json.loads(text)
    except (ValueError, zlib.error) as exc:
        raise ValueError(f"the environment holds no modules: {exc}") from exc
    return {str(name): str(source) for name, source in modules.items()}


class Shipped(importlib.abc.MetaPathFinder, importlib.abc.ExecutionLoader):
    """Imports modules that came as text; tracebacks show their lines."""

    def __init__(self, modules: Mapping[str, str]) -> None:
        self._modules = modules

    def install(self) -> None:
        """Have imports look here first."""
        sys.meta_path.insert(0, self)

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,  # noqa: ARG002  (what importlib calls it with)
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> importlib.machinery.ModuleSpec | None:
        """Return how a module is imported, if it is here."""
        if self._name(fullname) is None:
            return None
        spec = importlib.util.spec_from_loader(
            fullname, self, origin=self.get_filename(fullname), is_package=self.is_package(fullname)
        )
        if spec is not None:
            spec.has_location = True  # so that the module has a __file__, as programs expect
        return spec

    def get_filename(self, fullname: str) -> str:
        """Return what tracebacks call a module."""
        return f"{fullname}.py"

    def get_source(self, fullname: str) -> str:
        """Return a module's text. Raises ImportError: it is not here."""
        name = self._name(fullname)
        if name is None:
            raise ImportError(f"no module {fullname} came with the service")
        return self._modules[name]

    def is_package(self, fullname: str) -> bool:
        """Return whether a module is a package."""
        return f"{fullname}.__init__" in self._modules

    def _name(self, fullname: str) -> str | None:
        return next((n for n in (fullname, f"{fullname}.__init__") if n in self._modules), None)
