"""JSON from people, checked: what is wrong is said by the field's path."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from bench.lab.errors import BadInput

M = TypeVar("M", bound=BaseModel)

_SURROGATE = re.compile("[\ud800-\udfff]")

MAX_DEPTH = 32


def json_object(body: str | bytes, *, most_bytes: int) -> Mapping[str, Any]:
    """Return the JSON object that a text is.

    Raises:
        BadInput: it is too long, no JSON, or something else than an object.
    """
    if len(body) > most_bytes:
        raise BadInput(f"this has {len(body)} bytes, and {most_bytes} are the most")
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as exc:
        raise BadInput(f"this is no JSON: {exc}") from exc
    if not isinstance(value, dict):
        raise BadInput(f"this is a JSON {type(value).__name__}, and must be an object: {{…}}")
    return value


def storable(value: object) -> None:
    """Return if a JSON value can be kept in every database.

    Raises:
        BadInput: a text has a NUL in it, or half of a surrogate pair; or it is nested too deep.
    """
    level = [value]
    for _ in range(MAX_DEPTH):
        for text in (one for one in level if isinstance(one, str)):
            if "\0" in text or _SURROGATE.search(text):
                raise BadInput(f"{text[:40]!r} has signs in it that are no text")
        level = [inner for one in level for inner in _within(one)]
        if not level:
            return
    raise BadInput(f"this is nested more than {MAX_DEPTH} deep")


def _within(value: object) -> Iterable[object]:
    match value:
        case dict():
            return [*value.keys(), *value.values()]
        case list():
            return value
        case _:
            return ()


def validated(model: type[M], value: object) -> M:
    """Return `value` as a `model`.

    Raises:
        BadInput: naming each field that is wrong, and how.
    """
    try:
        return model.model_validate(value)
    except ValidationError as exc:
        raise BadInput("; ".join(_reason(error) for error in exc.errors())) from exc


def _reason(error: Any) -> str:
    where = _path(error["loc"])
    what = error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        return f"{where}: there is no such field"
    return f"{where}: {what}" if where else what


def _path(location: Sequence[str | int]) -> str:
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}"
    return path.removeprefix(".")
