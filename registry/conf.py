"""Reads a service's configuration: `service-conf.json`, or the same as YAML.

What comes out is checked field by field. A mistake is answered with the file, the line, the field,
what was found there, and what may be there; an unknown field with the nearest known ones. Units:
`RTT` is in milliseconds, `CpuReq` in millicores, `MemoryReq` in MiB, and 0 is no requirement.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from difflib import get_close_matches
from math import ceil
from pathlib import Path
from typing import Any, Generic, NoReturn, TypeVar, get_args

import yaml

from overlay.balancing import (
    COOKIE_PATTERN,
    DEFAULT_COOKIE,
    HASH_PATTERN,
    HASHING,
    MAX_WEIGHT,
    MAX_WEIGHTS,
    POLICIES,
    WEIGHTED,
    canonical,
)
from overlay.labels import (
    ALLOWED_NAME,
    ALLOWED_VALUE,
    MAX_LABELS,
    MAX_VALUES,
    is_label,
    is_wanted,
)
from overlay.spec import MAX_S, MOST_FAILURES, MOST_KEPT, MOST_STATUSES, Protocol
from registry.errors import ConfInvalid

MAX_CONF_BYTES = 256 * 1024
"""Four times what a definition may have."""

DEFAULT_FROM = "ubuntu:16.04"

MAX_RTT_MS = 3_600_000.0
_NANOSECONDS_IN_MS = 1_000_000

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class DockerConf:
    """How the service's image is built.

    Attributes:
        base: the image that it begins with.
        copies: (source, destination): the source below `--dir`, the destination below `/app`.
        run: shell commands that prepare the image.
        cmd: the shell command that starts the service.
        proxy_client_mode: accepted as older files have it; Myxo's services need no own proxy.
    """

    base: str = DEFAULT_FROM
    copies: tuple[tuple[str, str], ...] = ()
    run: tuple[str, ...] = ()
    cmd: str = ""
    proxy_client_mode: bool = False


@dataclass(frozen=True, slots=True)
class ServiceConf:
    """A checked configuration.

    Attributes:
        docker: how to build the image; None if the file has no `DockerConf`.
        image: a stock image to run instead.
        spec: fields of `ServiceSpec` that the file sets, by their names there.
    """

    docker: DockerConf | None = None
    image: str | None = None
    spec: dict[str, Any] = field(default_factory=dict)


def read_conf(path: Path) -> ServiceConf:
    """Return the configuration in `path`.

    Raises:
        ConfInvalid: saying where and what is wrong, and what is allowed.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_CONF_BYTES + 1)
    except OSError as exc:
        raise ConfInvalid(f"{path} cannot be read: {exc.strerror}") from exc
    if len(content) > MAX_CONF_BYTES:
        raise ConfInvalid(f"{path} is no service configuration: it has over {MAX_CONF_BYTES} bytes")
    try:
        text = content.decode()
    except UnicodeDecodeError as exc:
        line = content[: exc.start].count(b"\n") + 1
        raise ConfInvalid(f"{path}, line {line}: the text is not UTF-8") from exc
    return parse_conf(text, str(path))


def parse_conf(text: str, source: str) -> ServiceConf:
    """Return the configuration in `text`; `source` is its name in errors.

    Raises:
        ConfInvalid: see `read_conf`.
    """
    root = _Place(source, "", _parse(text, source))
    known = root.fields(_FIELDS)
    spec = {name: known[key] for key, name in _SPEC_FIELDS.items() if key in known}
    for key, name in (("NetworkSoftReq", "soft_rtt_ms"), ("NetworkHardReq", "hard_rtt_ms")):
        if (rtt := known.get(key)) is not None:
            spec[name] = rtt
    if known.get("cap_drop"):
        spec["cap_drop_all"] = known["cap_drop"] == "all"
    _check_together(root, known, spec)
    return ServiceConf(docker=known.get("DockerConf"), image=known.get("image"), spec=spec)


def _check_together(root: "_Place", known: dict[str, Any], spec: dict[str, Any]) -> None:
    soft, hard = spec.get("soft_rtt_ms"), spec.get("hard_rtt_ms")
    if soft is not None and hard is not None and soft > hard:
        root.at("NetworkSoftReq").at("RTT").refuse(
            f"at most NetworkHardReq.RTT, which is {hard:g} ms: over the soft limit a nearer "
            "instance is looked for, over the hard one an instance is not used"
        )
    fewest, most = spec.get("min_instances", 0), spec.get("max_instances", 0)
    if most and fewest > most:
        root.at("min_instances").refuse(f"at most max_instances, which is {most}")
    if known.get("min_state") == "paused" and spec.get("idle_pause_s") == 0:
        root.at("min_state").refuse('"running" where idle_pause_s is 0, which means never paused')
    if "image" in known and "DockerConf" in known:
        root.at("image").refuse("either image (runs it as it is) or DockerConf (builds one)")


# places in the file


class _Node:
    """A value of the file with its line; maps and lists hold nodes."""

    __slots__ = ("key_lines", "line", "value")

    def __init__(self, value: Any, line: int, key_lines: dict[str, int] | None = None) -> None:
        self.value = value
        self.line = line
        self.key_lines = key_lines or {}

    def plain(self) -> Any:
        match self.value:
            case dict():
                return {key: node.plain() for key, node in self.value.items()}
            case list():
                return [node.plain() for node in self.value]
            case _:
                return self.value


class _Place:
    """A value in the file, and how a person finds it."""

    def __init__(self, source: str, path: str, node: _Node) -> None:
        self._source = source
        self.path = path
        self._node = node

    @property
    def value(self) -> Any:
        return self._node.value

    def at(self, key: str | int) -> "_Place":
        path = f"{self.path}[{key}]" if isinstance(key, int) else f"{self.path}.{key}".lstrip(".")
        return _Place(self._source, path, self._node.value[key])

    def refuse(self, allowed: str) -> NoReturn:
        """Raise what a person needs to mend this value."""
        found = json.dumps(self._node.plain(), default=str, ensure_ascii=False)
        found = found if len(found) <= 80 else found[:77] + "…"  # noqa: PLR2004
        where = f"{self._source}, line {self._node.line}"
        subject = f"{self.path} is {found}" if self.path else f"the file holds {found}"
        raise ConfInvalid(f"{where}: {subject}; allowed: {allowed}")

    def fields(self, known: "dict[str, _Field[Any]]") -> dict[str, Any]:
        """Return the checked values of an object's fields, those present."""
        if not isinstance(self.value, dict):
            self.refuse(f"an object with some of {', '.join(known)}")
        for key in self.value:
            if key not in known:
                self._refuse_field(key, known)
        return {key: known[key].check(self.at(key)) for key in self.value}

    def items(self, allowed: str) -> "list[_Place]":
        if not isinstance(self.value, list):
            self.refuse(allowed)
        return [self.at(index) for index in range(len(self.value))]

    def _refuse_field(self, key: str, known: "dict[str, _Field[Any]]") -> NoReturn:
        lowered = {name.lower(): name for name in known}
        near = [lowered[n] for n in get_close_matches(key.lower(), lowered, 3, 0.6)]
        hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known)}"
        line = self._node.key_lines.get(key, self._node.line)
        inside = f" in {self.path}" if self.path else ""
        raise ConfInvalid(f"{self._source}, line {line}: there is no field {key!r}{inside}; {hint}")


# what may be where


@dataclass(frozen=True, slots=True)
class _Field(Generic[T]):
    check: Callable[[_Place], T]


def _number(allowed: str, low: float, high: float, *, whole: bool) -> Callable[[_Place], Any]:
    def check(place: _Place) -> Any:
        value = place.value
        kinds = (int,) if whole else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:
            place.refuse(allowed)
        return value

    return check


def _flag(place: _Place) -> bool:
    if not isinstance(place.value, bool):
        place.refuse("true or false")
    return bool(place.value)


def _text(allowed: str, limit: int = 4096) -> Callable[[_Place], str]:
    def check(place: _Place) -> str:
        value = place.value
        if not isinstance(value, str) or not value.strip() or len(value) > limit or "\0" in value:
            place.refuse(allowed)
        return str(value)

    return check


def _rtt_ms(place: _Place) -> float | None:
    values = place.fields({"RTT": _Field(_milliseconds)})
    return values.get("RTT") or None


def _milliseconds(place: _Place) -> float:
    value = place.value
    allowed = f"milliseconds from 0 (no requirement) to {MAX_RTT_MS:.0f}"
    if isinstance(value, int) and not isinstance(value, bool) and value > MAX_RTT_MS:
        allowed += f"; were these nanoseconds? then write {value / _NANOSECONDS_IN_MS:g}"
    return float(_number(allowed, 0, MAX_RTT_MS, whole=False)(place))


def _image_reference(place: _Place) -> str:
    allowed = "an image's name, such as ubuntu:16.04 or localhost:5000/hello@sha256:…"
    value = _text(allowed, 512)(place)
    if any(sign.isspace() for sign in value) or value.startswith("-"):
        place.refuse(allowed)
    return value


def _copies(place: _Place) -> tuple[tuple[str, str], ...]:
    allowed = 'a list of [source below --dir, destination below /app], such as [["server", "."]]'
    pairs = []
    for item in place.items(allowed):
        parts = item.items(allowed)
        if len(parts) != 2:  # noqa: PLR2004
            item.refuse(allowed)
        source, destination = (_text(allowed)(part) for part in parts)
        pairs.append((source, destination))
    return tuple(pairs)


def _commands(place: _Place) -> tuple[str, ...]:
    allowed = 'a list of shell commands, such as ["apt-get update"]'
    return tuple(_text(allowed, 16384)(item) for item in place.items(allowed))


def _docker(place: _Place) -> DockerConf:
    known = place.fields(_DOCKER_FIELDS)
    return DockerConf(
        base=known.get("From", DEFAULT_FROM),
        copies=known.get("Copy", ()),
        run=known.get("Run", ()),
        cmd=known.get("Cmd", ""),
        proxy_client_mode=known.get("ProxyClientMode", False),
    )


def _cmd(place: _Place) -> str:
    allowed = 'a shell command, such as "./server $SERVICE_PORT"'
    return "" if place.value == "" else _text(allowed, 16384)(place)


def _environment(place: _Place) -> dict[str, str]:
    allowed = 'an object of texts by variable name, such as {"MODE": "fast"}; at most 256 of them'
    if not isinstance(place.value, dict) or len(place.value) > 256:  # noqa: PLR2004
        place.refuse(allowed)
    found = {}
    for key in place.value:
        value = place.at(key).value
        good_name = key.isascii() and key.replace("_", "a").isalnum() and not key[0].isdigit()
        if not good_name or not isinstance(value, str) or len(value) > 4096:  # noqa: PLR2004
            place.at(key).refuse(allowed)
        found[key] = value
    return found


def _constraints(place: _Place) -> dict[str, tuple[str, ...]]:
    allowed = (
        'an object of a value or a list of values by label, such as {"zone": ["a", "b"]} or '
        f'{{"disk": "!hdd"}}; labels of {ALLOWED_NAME}, values of {ALLOWED_VALUE}; at most '
        f"{MAX_LABELS} labels of {MAX_VALUES} values"
    )
    if not isinstance(place.value, dict) or len(place.value) > MAX_LABELS:
        place.refuse(allowed)
    found = {}
    for label in place.value:
        inner = place.at(label)
        values = [v.value for v in inner.items("")] if isinstance(inner.value, list) else None
        wanted = [inner.value] if values is None else values
        if not is_label(label) or not 0 < len(wanted) <= MAX_VALUES:
            inner.refuse(allowed)
        if not all(isinstance(value, str) and is_wanted(value) for value in wanted):
            inner.refuse(allowed)
        found[label] = tuple(wanted)
    return found


def _cap_drop(place: _Place) -> str:
    if place.value not in ("all", "none"):
        place.refuse('"all" (drops every capability) or "none" (drops the dangerous ones only)')
    return str(place.value)


def _min_state(place: _Place) -> str:
    if place.value not in ("running", "paused"):
        place.refuse('"running", or "paused" (kept without CPU, resumed when asked for)')
    return str(place.value)


def _protocol(place: _Place) -> str:
    if place.value not in get_args(Protocol):
        place.refuse('"http1", "h2c" (HTTP/2 without TLS), "tcp" or "udp"')
    return str(place.value)


def _network(place: _Place) -> str:
    if place.value not in ("outside", "none"):
        place.refuse('"outside", or "none" (only other services, through the proxy)')
    return str(place.value)


def _statuses(place: _Place) -> tuple[int, ...]:
    allowed = f"a list of at most {MOST_STATUSES} statuses from 500 to 599, such as [502, 503]"
    number = _number(allowed, 500, 599, whole=True)
    items = place.items(allowed)
    if len(items) > MOST_STATUSES:
        place.refuse(allowed)
    return tuple(number(item) for item in items)


def _rate(place: _Place) -> dict[str, Any]:
    if not isinstance(place.value, dict) or "per_s" not in place.value:
        place.refuse('requests a second, and how many at once, as in {"per_s": 100, "burst": 20}')
    known = place.fields(_RATE_FIELDS)
    return {"burst": max(1, ceil(known["per_s"]))} | known


def _policy(place: _Place) -> dict[str, Any]:
    allowed = f"one of {', '.join(POLICIES)}, or an object with it as name"
    if isinstance(place.value, str):
        return {"name": _policy_name(place)}
    if not isinstance(place.value, dict) or "name" not in place.value:
        place.refuse(allowed)
    found = place.fields(_POLICY_FIELDS)
    if "hash" in found and found["name"] not in HASHING:
        place.at("hash").refuse(f"nothing, as only {' and '.join(sorted(HASHING))} hash")
    if "weights" in found and found["name"] not in WEIGHTED | HASHING:
        place.at("weights").refuse(f"nothing, but with {', '.join(sorted(WEIGHTED | HASHING))}")
    return found


def _policy_name(place: _Place) -> str:
    name = canonical(place.value) if isinstance(place.value, str) else None
    if name is None:
        place.refuse(f"one of {', '.join(POLICIES)}")
    return name


def _hash(place: _Place) -> str:
    if not isinstance(place.value, str) or not re.fullmatch(HASH_PATTERN, place.value):
        place.refuse('"client", "path", "header:NAME" or "cookie:NAME"')
    return place.value


def _weights(place: _Place) -> dict[str, float]:
    allowed = 'an object of weights by host name, such as {"einstein": 2.5}'
    if not isinstance(place.value, dict) or not 0 < len(place.value) <= MAX_WEIGHTS:
        place.refuse(allowed)
    number = _number(f"a weight from 0 to {MAX_WEIGHT:g}", 0, MAX_WEIGHT, whole=False)
    return {host: float(number(place.at(host))) for host in place.value}


def _sticky(place: _Place) -> bool | str:
    if isinstance(place.value, bool):
        return DEFAULT_COOKIE if place.value else False
    if not isinstance(place.value, str) or not re.fullmatch(COOKIE_PATTERN, place.value):
        place.refuse("true, false or the name of a cookie")
    return place.value


def _path(place: _Place) -> str:
    allowed = 'a path that answers 2xx when the service is ready, such as "/health"'
    value = _text(allowed, 1024)(place)
    if not value.startswith("/") or not value.isascii() or not value.isprintable() or " " in value:
        place.refuse(allowed)
    return value


_DOCKER_FIELDS: dict[str, _Field[Any]] = {
    "From": _Field(_image_reference),
    "Copy": _Field(_copies),
    "Run": _Field(_commands),
    "Cmd": _Field(_cmd),
    "ProxyClientMode": _Field(_flag),
}

_MOST = 2**31

_RATE_FIELDS: dict[str, _Field[Any]] = {
    "per_s": _Field(_number("requests a second, over 0", 0.001, _MOST, whole=False)),
    "burst": _Field(_number("requests that may come at once, from 1", 1, _MOST, whole=True)),
}

_FAILURES = _Field(
    _number(f"how many in a row, from 1 to {MOST_FAILURES}", 1, MOST_FAILURES, whole=True)
)

_FIELDS: dict[str, _Field[Any]] = {
    "NetworkSoftReq": _Field(_rtt_ms),
    "NetworkHardReq": _Field(_rtt_ms),
    "CpuReq": _Field(
        _number("whole millicores, 1000 is one core, 0 no requirement", 0, _MOST, whole=True)
    ),
    "MemoryReq": _Field(_number("whole MiB, 0 is no requirement", 0, _MOST, whole=True)),
    "constraints": _Field(_constraints),
    "prefer": _Field(_constraints),
    "DockerConf": _Field(_docker),
    "image": _Field(_image_reference),
    "port": _Field(_number("a port from 1 to 65535", 1, 65535, whole=True)),
    "protocol": _Field(_protocol),
    "tunnel_idle_s": _Field(_number("seconds over 0", 0.001, 10**9, whole=False)),
    "env": _Field(_environment),
    "concurrency": _Field(
        _number("how many requests an instance serves at once, from 1", 1, _MOST, whole=True)
    ),
    "max_instances": _Field(
        _number("how many instances there may be, 0 is no limit", 0, _MOST, whole=True)
    ),
    "min_instances": _Field(
        _number(f"how many instances are kept, 0 (none) to {MOST_KEPT}", 0, MOST_KEPT, whole=True)
    ),
    "min_state": _Field(_min_state),
    "idle_pause_s": _Field(_number("seconds, 0 is never", 0, 10**9, whole=False)),
    "idle_stop_s": _Field(_number("seconds over 0", 0.001, 10**9, whole=False)),
    "ready_timeout_s": _Field(_number("seconds over 0, at most 600", 0.001, 600, whole=False)),
    "idempotent": _Field(_flag),
    "health": _Field(_path),
    "health_interval_s": _Field(_number("seconds, 0 is at the start only", 0, MAX_S, whole=False)),
    "health_failures": _FAILURES,
    "eject_after": _Field(_number("how many in a row, 0 is never", 0, MOST_FAILURES, whole=True)),
    "retry_percent": _Field(_number("a share of the requests, from 0 to 100", 0, 100, whole=False)),
    "retry_statuses": _Field(_statuses),
    "hedge_ms": _Field(_number("milliseconds over 0", 0.001, MAX_S * 1000, whole=False)),
    "hedge_percentile": _Field(_number("a percentile from 50 to 99.9", 50, 99.9, whole=False)),
    "timeout_s": _Field(_number("seconds over 0", 0.001, MAX_S, whole=False)),
    "max_in_flight": _Field(_number("how many requests, 0 is no bound", 0, _MOST, whole=True)),
    "max_pending": _Field(
        _number("how many requests, 0 is the proxy's own bound", 0, _MOST, whole=True)
    ),
    "rate_limit": _Field(_rate),
    "client_rate_limit": _Field(_rate),
    "global_rate_limit": _Field(_rate),
    "read_only": _Field(_flag),
    "cap_drop": _Field(_cap_drop),
    "network": _Field(_network),
    "policy": _Field(_policy),
    "sticky": _Field(_sticky),
}

_POLICY_FIELDS: dict[str, _Field[Any]] = {
    "name": _Field(_policy_name),
    "hash": _Field(_hash),
    "weights": _Field(_weights),
}

_SPEC_FIELDS = {
    "CpuReq": "cpu_millicores",
    "MemoryReq": "memory_mib",
    **{
        name: name
        for name in (
            "constraints",
            "prefer",
            "port",
            "protocol",
            "tunnel_idle_s",
            "env",
            "concurrency",
            "max_instances",
            "min_instances",
            "min_state",
            "idle_pause_s",
            "idle_stop_s",
            "ready_timeout_s",
            "idempotent",
            "health",
            "health_interval_s",
            "health_failures",
            "eject_after",
            "retry_percent",
            "retry_statuses",
            "hedge_ms",
            "hedge_percentile",
            "timeout_s",
            "max_in_flight",
            "max_pending",
            "rate_limit",
            "client_rate_limit",
            "global_rate_limit",
            "read_only",
            "network",
            "policy",
            "sticky",
        )
    },
}
"""Fields of the file that go into the spec unchanged."""


# from text to nodes


def _parse(text: str, source: str) -> _Node:
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


def _located(node: yaml.Node, source: str, seen: set[int]) -> _Node:
    line = node.start_mark.line + 1
    if id(node) in seen:
        raise ConfInvalid(f"{source}, line {line}: YAML aliases (*name) are not allowed")
    seen.add(id(node))
    if isinstance(node, yaml.MappingNode):
        return _located_mapping(node, source, seen)
    if isinstance(node, yaml.SequenceNode):
        return _Node([_located(item, source, seen) for item in node.value], line)
    return _Node(_scalar(node, source), line)


def _located_mapping(node: yaml.MappingNode, source: str, seen: set[int]) -> _Node:
    values: dict[str, _Node] = {}
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
    return _Node(values, node.start_mark.line + 1, lines)


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
