"""Objects of a configuration whose keys are known: another key is an error that names near ones."""

import difflib
import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator


class Keys(BaseModel):
    """An object with known keys, which may have `-` for `_`, and may be JSON in a string."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    @model_validator(mode="before")
    @classmethod
    def _known(cls, written: Any) -> Any:
        given = from_json(written)
        if not isinstance(given, Mapping):
            return given
        found: dict[str, Any] = {}
        for key, value in given.items():
            name = str(key).replace("-", "_")
            if name not in cls.model_fields:
                raise ValueError(_unknown(str(key), list(cls.model_fields)))
            if name in found:
                raise ValueError(f"{key!r} is there twice, with - and with _")
            found[name] = value
        return found


def from_json(written: Any) -> Any:
    """Return what the JSON of an object or a list in a string says; anything else as it is.

    Raises:
        ValueError: it begins as such and is no JSON.
    """
    if not isinstance(written, str) or not written.lstrip().startswith(("{", "[")):
        return written
    try:
        return json.loads(written)
    except ValueError as exc:
        raise ValueError(f"{written[:40]!r} is no JSON: {exc}") from exc


def near(name: str, known: list[str]) -> str:
    """Return words about which of the known names `name` may be a slip of, or which there are."""
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(known)}"


def _unknown(key: str, known: list[str]) -> str:
    return f"there is no key {key!r} here; {near(key, known)}"
