"""Reads literals in JavaScript: the objects, lists and texts that a k6 script is configured with.

It runs nothing. What is no literal, such as a call, is kept as its source, so that it can be named.
"""

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass

_BLANK = re.compile(r"(?:\s+|//[^\n]*|/\*.*?\*/)*", re.DOTALL)
_NUMBER = re.compile(
    r"-?(?:0[xX][0-9a-fA-F]+|(?:[0-9][0-9_]*\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)"
)
_NAME = re.compile(r"[A-Za-z_$][\w$]*")
_TEXT = re.compile(r"\"(?:[^\"\\\n]|\\.)*\"|'(?:[^'\\\n]|\\.)*'|`(?:[^`\\]|\\.)*`", re.DOTALL)
_ESCAPE = re.compile(r"\\(u\{[0-9a-fA-F]+\}|u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|.)", re.DOTALL)
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "v": "\v", "0": "\0", "\n": ""}
_PLACE = re.compile(r"\$\{\s*([A-Za-z_$][\w$]*)\s*\}")
_WORDS: Mapping[str, object] = {"true": True, "false": False, "null": None, "undefined": None}
_CLOSED_BY = {"(": ")", "[": "]", "{": "}"}
_DECLARED = re.compile(r"(?:^|[;\n])\s*(?:export\s+)?(?:const|let|var)\s+([A-Za-z_$][\w$]*)\s*=")
MOST_DEPTH = 50


@dataclass(frozen=True, slots=True)
class Expression:
    """What is no literal, as it was written."""

    source: str

    def __str__(self) -> str:
        return self.source


class Malformed(Exception):
    """The text ends, or goes on otherwise, where a value was to be."""


def constants(script: str) -> dict[str, object]:
    """Return the values of the variables that are declared with a literal, at any place."""
    known: dict[str, object] = {}
    for found in _DECLARED.finditer(script):
        try:
            known[found[1]] = Reader(script, known).value(found.end())[0]
        except Malformed:
            continue
    return known


def without_comments(script: str) -> str:
    """Return a script with its comments blanked out."""
    kept = re.compile(rf"({_TEXT.pattern})|//[^\n]*|/\*.*?\*/", re.DOTALL)
    return kept.sub(lambda found: found[1] or " ", script)


class Reader:
    """Reads values at places of a text.

    Args:
        text: a script.
        known: values of variables.
    """

    def __init__(self, text: str, known: Mapping[str, object]) -> None:
        self._text, self._known = text, known

    def value(self, at: int, depth: int = 0) -> tuple[object, int]:
        """Return the value at a place, and where it ends.

        Raises:
            Malformed: there is none.
        """
        if depth > MOST_DEPTH:
            raise Malformed("too deep")
        start = self._skip(at)
        try:
            value, end = self._literal(start, depth)
        except Malformed:
            return self._expression(start)
        if self._text[self._skip(end) :][:1] in {",", "}", "]", ")", ";", ""} or self._new_line(
            end
        ):
            return value, end
        return self._expression(start)

    def items(self, at: int, closing: str, depth: int = 0) -> tuple[list[object], int]:
        """Return the values up to a closing bracket, and where that ends.

        Raises:
            Malformed: there is none.
        """
        values: list[object] = []
        at = self._skip(at)
        while self._at(at) != closing:
            value, at = self.value(at, depth + 1)
            values.append(value)
            at = self._after_comma(at, closing)
        return values, at + 1

    def _literal(self, at: int, depth: int) -> tuple[object, int]:
        character = self._at(at)
        if character == "{":
            return self._mapping(at + 1, depth)
        if character == "[":
            return self.items(at + 1, "]", depth)
        if found := _TEXT.match(self._text, at):
            return self._string(found[0]), found.end()
        if found := _NUMBER.match(self._text, at):
            return _number(found[0]), found.end()
        if found := _NAME.match(self._text, at):
            return self._named(found[0]), found.end()
        raise Malformed(self._text[at : at + 20])

    def _mapping(self, at: int, depth: int) -> tuple[dict[str, object], int]:
        found: dict[str, object] = {}
        at = self._skip(at)
        while self._at(at) != "}":
            key, at = self._key(at)
            if self._at(at) == ":":
                found[key], at = self.value(at + 1, depth + 1)
            else:
                found[key] = self._named(key)  # `{ rate }` is `{ rate: rate }`
            at = self._after_comma(at, "}")
        return found, at + 1

    def _key(self, at: int) -> tuple[str, int]:
        if found := _TEXT.match(self._text, at):
            key = _unescaped(found[0][1:-1])
        elif found := _NAME.match(self._text, at) or _NUMBER.match(self._text, at):
            key = found[0]
        else:
            raise Malformed(self._text[at : at + 20])
        return key, self._skip(found.end())

    def _string(self, written: str) -> str:
        text = written[1:-1]
        if written[0] != "`":
            return _unescaped(text)
        filled = _PLACE.sub(lambda place: str(self._named(place[1])), text)
        if "${" in filled:
            raise Malformed(written)
        return _unescaped(filled)

    def _named(self, name: str) -> object:
        if name in _WORDS:
            return _WORDS[name]
        if name not in self._known or isinstance(self._known[name], Expression):
            raise Malformed(name)
        return self._known[name]

    def _expression(self, start: int) -> tuple[Expression, int]:
        """Return everything up to the comma or bracket that ends it."""
        at, open_brackets = start, list[str]()
        while at < len(self._text):
            character = self._text[at]
            if found := _TEXT.match(self._text, at):
                at = found.end()
                continue
            if not open_brackets and character in ",)]};":
                break
            if character in _CLOSED_BY:
                open_brackets.append(_CLOSED_BY[character])
            elif open_brackets and character == open_brackets[-1]:
                open_brackets.pop()
            at += 1
        source = self._text[start:at].strip()
        if not source:
            raise Malformed("nothing")
        return Expression(source), at

    def _after_comma(self, at: int, closing: str) -> int:
        at = self._skip(at)
        if self._at(at) == ",":
            return self._skip(at + 1)
        if self._at(at) != closing:
            raise Malformed(self._text[at : at + 20])
        return at

    def _at(self, at: int) -> str:
        if at >= len(self._text):
            raise Malformed("the end")
        return self._text[at]

    def _skip(self, at: int) -> int:
        found = _BLANK.match(self._text, at)
        return found.end() if found else at

    def _new_line(self, at: int) -> bool:
        """Return whether a line ends here, which ends a statement too."""
        return self._text[at : self._skip(at)].count("\n") > 0


def _number(text: str) -> float | int:
    plain = text.replace("_", "")
    if plain.lower().startswith(("0x", "-0x")):
        return int(plain, 16)
    value = float(plain)
    return int(value) if value.is_integer() and "." not in plain else value


def _unescaped(text: str) -> str:
    """Return a text with its escapes replaced; two that are a pair of UTF-16 become one."""
    replaced = _ESCAPE.sub(_character, text)
    return replaced.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _character(found: re.Match[str]) -> str:
    code = found[1]
    if code[0] in "ux" and len(code) > 1:
        return chr(min(int(code[1:].strip("{}"), 16), sys.maxunicode))
    return _ESCAPED.get(code, code)
