"""The values of a configuration that are more than a number, a flag or a text."""

import re
from math import ceil
from typing import Any, get_args

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
from overlay.spec import MOST_STATUSES, Protocol
from registry.conf.place import Field, Place, number, text

MAX_RTT_MS = 3_600_000.0
_NANOSECONDS_IN_MS = 1_000_000
MOST = 2**31
"""The largest number of anything."""


def rtt_ms(place: Place) -> float | None:
    """Return an RTT in milliseconds; None for no requirement."""
    values = place.fields({"RTT": Field(_milliseconds)})
    return values.get("RTT") or None


def _milliseconds(place: Place) -> float:
    value = place.value
    allowed = f"milliseconds from 0 (no requirement) to {MAX_RTT_MS:.0f}"
    if isinstance(value, int) and not isinstance(value, bool) and value > MAX_RTT_MS:
        allowed += f"; were these nanoseconds? then write {value / _NANOSECONDS_IN_MS:g}"
    return float(number(allowed, 0, MAX_RTT_MS, whole=False)(place))


def image_reference(place: Place) -> str:
    """Return the name of an image."""
    allowed = "an image's name, such as ubuntu:16.04 or localhost:5000/hello@sha256:…"
    value = text(allowed, 512)(place)
    if any(sign.isspace() for sign in value) or value.startswith("-"):
        place.refuse(allowed)
    return value


def environment(place: Place) -> dict[str, str]:
    """Return environment variables."""
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


def constraints(place: Place) -> dict[str, tuple[str, ...]]:
    """Return the wanted values of labels."""
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


def cap_drop(place: Place) -> str:
    """Return which capabilities are dropped."""
    if place.value not in ("all", "none"):
        place.refuse('"all" (drops every capability) or "none" (drops the dangerous ones only)')
    return str(place.value)


def min_state(place: Place) -> str:
    """Return the state that `min_instances` are kept in."""
    if place.value not in ("running", "paused"):
        place.refuse('"running", or "paused" (kept without CPU, resumed when asked for)')
    return str(place.value)


def protocol(place: Place) -> str:
    """Return what instances speak."""
    if place.value not in get_args(Protocol):
        place.refuse('"http1", "h2c" (HTTP/2 without TLS), "tcp" or "udp"')
    return str(place.value)


def network(place: Place) -> str:
    """Return what instances may reach."""
    if place.value not in ("outside", "none"):
        place.refuse('"outside", or "none" (only other services, through the proxy)')
    return str(place.value)


def statuses(place: Place) -> tuple[int, ...]:
    """Return statuses of failed answers."""
    allowed = f"a list of at most {MOST_STATUSES} statuses from 500 to 599, such as [502, 503]"
    status = number(allowed, 500, 599, whole=True)
    items = place.items(allowed)
    if len(items) > MOST_STATUSES:
        place.refuse(allowed)
    return tuple(status(item) for item in items)


def rate(place: Place) -> dict[str, Any]:
    """Return a rate limit's fields."""
    if not isinstance(place.value, dict) or "per_s" not in place.value:
        place.refuse('requests a second, and how many at once, as in {"per_s": 100, "burst": 20}')
    known = place.fields(_RATE_FIELDS)
    return {"burst": max(1, ceil(known["per_s"]))} | known


def policy(place: Place) -> dict[str, Any]:
    """Return a selection policy's fields."""
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


def _policy_name(place: Place) -> str:
    name = canonical(place.value) if isinstance(place.value, str) else None
    if name is None:
        place.refuse(f"one of {', '.join(POLICIES)}")
    return name


def _hash(place: Place) -> str:
    if not isinstance(place.value, str) or not re.fullmatch(HASH_PATTERN, place.value):
        place.refuse('"client", "path", "header:NAME" or "cookie:NAME"')
    return place.value


def _weights(place: Place) -> dict[str, float]:
    allowed = 'an object of weights by host name, such as {"einstein": 2.5}'
    if not isinstance(place.value, dict) or not 0 < len(place.value) <= MAX_WEIGHTS:
        place.refuse(allowed)
    weight = number(f"a weight from 0 to {MAX_WEIGHT:g}", 0, MAX_WEIGHT, whole=False)
    return {host: float(weight(place.at(host))) for host in place.value}


def sticky(place: Place) -> bool | str:
    """Return the name of the cookie that ties a client to an instance; False for none."""
    if isinstance(place.value, bool):
        return DEFAULT_COOKIE if place.value else False
    if not isinstance(place.value, str) or not re.fullmatch(COOKIE_PATTERN, place.value):
        place.refuse("true, false or the name of a cookie")
    return place.value


def path(place: Place) -> str:
    """Return the path of a health check."""
    allowed = 'a path that answers 2xx when the service is ready, such as "/health"'
    value = text(allowed, 1024)(place)
    if not value.startswith("/") or not value.isascii() or not value.isprintable() or " " in value:
        place.refuse(allowed)
    return value


_RATE_FIELDS: dict[str, Field[Any]] = {
    "per_s": Field(number("requests a second, over 0", 0.001, MOST, whole=False)),
    "burst": Field(number("requests that may come at once, from 1", 1, MOST, whole=True)),
}

_POLICY_FIELDS: dict[str, Field[Any]] = {
    "name": Field(_policy_name),
    "hash": Field(_hash),
    "weights": Field(_weights),
}
