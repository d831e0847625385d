"""Where a value stands in a configuration, what may stand there, and how its mistakes are told.

A mistake is answered with the file, the line, the field, what was found there, and what may be
there; an unknown field with the nearest known ones.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Generic, NoReturn, TypeVar

from registry.conf.document import Node
from registry.errors import ConfInvalid

T = TypeVar("T")


class Place:
    """A value in the file, and how a person finds it."""

    def __init__(self, source: str, path: str, node: Node) -> None:
        self._source = source
        self.path = path
        self._node = node

    @property
    def value(self) -> Any:
        """What stands here: text, a number, a flag, None, or nodes in a map or list."""
        return self._node.value

    def at(self, key: str | int) -> "Place":
        """Return the place of a field or an item, which must be there."""
        path = f"{self.path}[{key}]" if isinstance(key, int) else f"{self.path}.{key}".lstrip(".")
        return Place(self._source, path, self._node.value[key])

    def refuse(self, allowed: str) -> NoReturn:
        """Raise what a person needs to mend this value."""
        found = json.dumps(self._node.plain(), default=str, ensure_ascii=False)
        found = found if len(found) <= 80 else found[:77] + "…"  # noqa: PLR2004
        where = f"{self._source}, line {self._node.line}"
        subject = f"{self.path} is {found}" if self.path else f"the file holds {found}"
        raise ConfInvalid(f"{where}: {subject}; allowed: {allowed}")

    def fields(self, known: "dict[str, Field[Any]]") -> dict[str, Any]:
        """Return the checked values of an object's fields, those present."""
        if not isinstance(self.value, dict):
            self.refuse(f"an object with some of {', '.join(known)}")
        for key in self.value:
            if key not in known:
                self._refuse_field(key, known)
        return {key: known[key].check(self.at(key)) for key in self.value}

    def items(self, allowed: str) -> "list[Place]":
        """Return the places of a list's items."""
        if not isinstance(self.value, list):
            self.refuse(allowed)
        return [self.at(index) for index in range(len(self.value))]

    def _refuse_field(self, key: str, known: "dict[str, Field[Any]]") -> NoReturn:
        lowered = {name.lower(): name for name in known}
        near = [lowered[n] for n in get_close_matches(key.lower(), lowered, 3, 0.6)]
        hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known)}"
        line = self._node.key_lines.get(key, self._node.line)
        inside = f" in {self.path}" if self.path else ""
        raise ConfInvalid(f"{self._source}, line {line}: there is no field {key!r}{inside}; {hint}")


@dataclass(frozen=True, slots=True)
class Field(Generic[T]):
    """A field that a configuration may have; `check` returns its value, or refuses it."""

    check: Callable[[Place], T]


def number(allowed: str, low: float, high: float, *, whole: bool) -> Callable[[Place], Any]:
    """Return what checks that there is a number from `low` to `high`."""

    def check(place: Place) -> Any:
        value = place.value
        kinds = (int,) if whole else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:
            place.refuse(allowed)
        return value

    return check


def flag(place: Place) -> bool:
    """Return true or false."""
    if not isinstance(place.value, bool):
        place.refuse("true or false")
    return bool(place.value)


def text(allowed: str, limit: int = 4096) -> Callable[[Place], str]:
    """Return what checks that there is a text of at most `limit` signs."""

    def check(place: Place) -> str:
        value = place.value
        if not isinstance(value, str) or not value.strip() or len(value) > limit or "\0" in value:
            place.refuse(allowed)
        return str(value)

    return check
