"""The text of a configuration as a tree whose values know their lines: JSON or YAML."""

import json
from typing import Any

import yaml

from registry.errors import ConfInvalid


class Node:
    """A value of the file with its line; maps and lists hold nodes."""

    __slots__ = ("key_lines", "line", "value")

    def __init__(self, value: Any, line: int, key_lines: dict[str, int] | None = None) -> None:
        self.value = value
        self.line = line
        self.key_lines = key_lines or {}

    def plain(self) -> Any:
        """Return the value without lines."""
        match self.value:
            case dict():
                return {key: node.plain() for key, node in self.value.items()}
            case list():
                return [node.plain() for node in self.value]
            case _:
                return self.value


def parse(text: str, source: str) -> Node:
    """Return the text's tree: JSON if it begins like JSON, else YAML.

    YAML's own parser gives the lines of both: JSON is YAML, once its own parser has accepted it and
    its tabs, which can only be white space then, are made blanks.
    """
    looks_like_json = text.lstrip("\ufeff \t\r\n")[:1] in {"{", "["}
    if looks_like_json and not source.endswith((".yaml", ".yml")):
        text = text.removeprefix("\ufeff")
        _check_json(text, source)
        text = text.replace("\t", " ")
    try:
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        line = mark.line + 1 if mark is not None else 1
        raise ConfInvalid(f"{source}, line {line}: not YAML: {exc.problem or exc}") from exc
    except (yaml.YAMLError, RecursionError) as exc:
        raise ConfInvalid(f"{source} is not YAML: {str(exc).splitlines()[0]}") from exc
    if tree is None:
        raise ConfInvalid(f"{source} is empty; `registry-cli add --help` shows an example")
    return _located(tree, source, set())


def _check_json(text: str, source: str) -> None:
    try:
        json.loads(text)
    except json.JSONDecodeError as exc:
        lines = text.splitlines() or [""]
        shown = lines[min(exc.lineno, len(lines)) - 1].strip()[:80]
        raise ConfInvalid(f"{source}, line {exc.lineno}: not JSON: {exc.msg} at: {shown}") from exc
    except RecursionError as exc:
        raise ConfInvalid(f"{source} is nested too deeply") from exc


def _located(node: yaml.Node, source: str, seen: set[int]) -> Node:
    line = node.start_mark.line + 1
    if id(node) in seen:
        raise ConfInvalid(f"{source}, line {line}: YAML aliases (*name) are not allowed")
    seen.add(id(node))
    if isinstance(node, yaml.MappingNode):
        return _located_mapping(node, source, seen)
    if isinstance(node, yaml.SequenceNode):
        return Node([_located(item, source, seen) for item in node.value], line)
    return Node(_scalar(node, source), line)


def _located_mapping(node: yaml.MappingNode, source: str, seen: set[int]) -> Node:
    values: dict[str, Node] = {}
    lines: dict[str, int] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            raise ConfInvalid(f"{source}, line {line}: a field's name must be text")
        key = str(key_node.value)
        if key in values:
            raise ConfInvalid(
                f"{source}, line {line}: the field {key!r} is there twice, first in line "
                f"{lines[key]}; keep one"
            )
        lines[key] = line
        values[key] = _located(value_node, source, seen)
    return Node(values, node.start_mark.line + 1, lines)


def _scalar(node: yaml.Node, source: str) -> Any:
    constructor = yaml.SafeLoader("")
    try:
        value = constructor.construct_object(node)
        if not isinstance(value, str):
            return value
        # JSON writes signs beyond 16 bits as two escapes, which YAML leaves as two halves.
        value = value.encode("utf-16", "surrogatepass").decode("utf-16")
        return _json_number(value) if getattr(node, "style", None) is None else value
    except (yaml.YAMLError, ValueError) as exc:
        line = node.start_mark.line + 1
        raise ConfInvalid(f"{source}, line {line}: {node.value!r} cannot be read") from exc
    finally:
        constructor.dispose()


def _json_number(text: str) -> Any:
    """Return the number that JSON reads in an unquoted `1e3`, which is text to YAML 1.1."""
    try:
        return float(text) if text[:1] in "-0123456789" else text
    except ValueError:
        return text
