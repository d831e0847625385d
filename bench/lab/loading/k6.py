"""Reads what a k6 script says about its load, without running it; or the summary of a run.

Literals are taken, and variables that hold one; everything else is named and left out.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bench.lab.errors import BadInput
from bench.lab.loading.imported import Imported, origin_of, path_of
from bench.lab.loading.js import Expression, Malformed, Reader, constants, without_comments
from bench.lab.loading.k6_options import Iteration, schedule

_OPTIONS = re.compile(r"(?:export\s+(?:const|let|var)\s+|exports\.)options\s*(?::\s*\w+\s*)?=")
_CALL = re.compile(r"\bhttp\.(get|head|options|post|put|patch|del|request|batch|asyncRequest)\(")
_SLEEP = re.compile(r"\bsleep\(")
_STRINGIFY = re.compile(r"JSON\.stringify\((.*)\)", re.DOTALL)
_BODILESS = frozenset({"get", "head"})


def read_k6(text: str, scenario: str | None = None) -> Imported:
    """Return the load of a script, of its options as `k6 inspect` prints them, or of a summary.

    Args:
        text: the file.
        scenario: which one, where there are several; else the first.

    Raises:
        BadInput: there is no load in it that can be made here; the message says why.
    """
    try:
        said = json.loads(text)
    except ValueError:
        return _Script(text).imported(scenario)
    if not isinstance(said, dict):
        raise BadInput("this is neither a k6 script nor its options nor a summary")
    if "metrics" in said:
        return _of_summary(said)
    notes: list[str] = []
    return Imported(schedule(said, scenario, Iteration(), notes), notes)


def _of_summary(said: Mapping[str, Any]) -> Imported:
    """Return as many requests at the rate that a run had (`--summary-export`, `handleSummary`)."""
    requests = said["metrics"].get("http_reqs") or {}
    values = requests.get("values", requests)
    try:
        rate, count = float(values["rate"]), float(values["count"])
        duration = count / rate
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as exc:
        raise BadInput("the summary has no http_reqs with a rate and a count") from exc
    notes = [
        "a summary does not say what was asked for, nor how the rate changed: this is its mean"
    ]
    return Imported({"profile": f"constant:{rate:.12g}", "duration": round(duration, 3)}, notes)


class _Script:
    """A script, and what was found wanting in it."""

    def __init__(self, text: str) -> None:
        self._text = without_comments(text)
        self._known = constants(self._text)
        self._notes: list[str] = []

    def imported(self, scenario: str | None) -> Imported:
        """Return its load."""
        requests = list(self._requests())
        origins = list(dict.fromkeys(origin for origin, _ in requests))
        for other in origins[1:]:
            self._notes.append(f"left out: requests for {other}; a load has one target")
        kept = [asked for origin, asked in requests if origin == origins[0]]
        iteration = Iteration(max(len(kept), 1), self._pause_s())
        when = schedule(self._options(), scenario, iteration, self._notes)
        if not kept:
            self._notes.append("no request has a literal URL: say what to ask for with --target")
            return Imported(when, self._notes)
        return Imported({"target": f"{origins[0]}/", "requests": kept} | when, self._notes)

    def _options(self) -> Mapping[str, Any]:
        found = _OPTIONS.search(self._text)
        try:
            options = self._reader.value(found.end())[0] if found else {}
        except Malformed as exc:
            raise BadInput(f"the script's options cannot be read, at {exc}") from exc
        if not isinstance(options, dict):
            raise BadInput(f"the script's options are no literal: {options}")
        return options

    @property
    def _reader(self) -> Reader:
        return Reader(self._text, self._known)

    def _pause_s(self) -> float:
        """Return how long an iteration sleeps."""
        pause_s = 0.0
        for arguments in self._calls(_SLEEP):
            match arguments[1]:
                case [int() | float() as length]:
                    pause_s += length
                case other:
                    self._notes.append(f"not converted: sleep({_shown(other)})")
        return pause_s

    def _requests(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield origin and request of each call that can be converted."""
        for name, arguments in self._calls(_CALL):
            try:
                yield self._request(name, arguments)
            except Malformed as exc:
                written = f"http.{name}({_shown(arguments)})"
                self._notes.append(f"not converted: {written[:100]}: {exc}")

    def _calls(self, pattern: re.Pattern[str]) -> Iterator[tuple[str, list[object]]]:
        for found in pattern.finditer(self._text):
            name = found[1] if found.groups() else ""
            try:
                yield name, self._reader.items(found.end(), ")")[0]
            except Malformed as exc:
                self._notes.append(f"not converted: {found[0]}...: it cannot be read, at {exc}")

    def _request(self, name: str, arguments: Sequence[object]) -> tuple[str, dict[str, Any]]:
        if name == "batch":
            raise Malformed("send its requests one by one")
        method = {"del": "DELETE"}.get(name, name.upper())
        if name in {"request", "asyncRequest"}:
            if not arguments or not isinstance(arguments[0], str):
                raise Malformed("its method is no literal")
            method, arguments = arguments[0].upper(), arguments[1:]
        if not arguments or not isinstance(arguments[0], str) or not origin_of(arguments[0]):
            raise Malformed("its URL is no literal")
        url, *rest = arguments
        body, params = (None, rest[:1]) if name in _BODILESS else (rest[:1], rest[1:2])
        kwargs = _body(body[0] if body else None, self._known) | _headers(
            params[0] if params else None
        )
        asked: dict[str, Any] = {"method": method, "path": path_of(str(url))}
        return origin_of(str(url)), asked | ({"kwargs": kwargs} if kwargs else {})


def _body(body: object, known: Mapping[str, object]) -> dict[str, Any]:
    if isinstance(body, Expression) and (found := _STRINGIFY.fullmatch(body.source)):
        value = Reader(found[1], known).value(0)[0]
        if not _is_literal(value):
            raise Malformed("its body is no literal")
        return {"content": json.dumps(value, separators=(",", ":"))}
    match body:
        case None:
            return {}
        case str():
            return {"content": body}
        case dict() if _is_literal(body):
            return {"data": body}
    raise Malformed("its body is no literal")


def _headers(params: object) -> dict[str, Any]:
    if params is None:
        return {}
    headers = params.get("headers", {}) if isinstance(params, dict) else params
    if not isinstance(headers, dict) or not _is_literal(headers):
        raise Malformed("its headers are no literal")
    return {"headers": {key: str(value) for key, value in headers.items()}} if headers else {}


def _is_literal(value: object) -> bool:
    match value:
        case dict():
            return all(_is_literal(one) for one in value.values())
        case list():
            return all(_is_literal(one) for one in value)
    return not isinstance(value, Expression)


def _shown(arguments: Sequence[object]) -> str:
    return ", ".join(str(one) for one in arguments)[:80]
