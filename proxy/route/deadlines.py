"""How long a request may take, and how the services behind it are told what is left of that.

A client says it in `X-Request-Timeout` (seconds, as `2.5`) or, with gRPC, in `grpc-timeout` (digits
and a unit, as `2500m`); the service's definition may say it too (`timeout_s`), and the shortest
holds. What goes on to the instance is what is left, so that along a chain of services nobody works
on an answer that nobody waits for any more. It begins with the request's head and ends with the
answer's last byte.

Pure: header values and seconds.
"""

import re
from collections.abc import Iterable
from math import inf

from overlay.http.head import Field
from overlay.spec import MAX_S, ServiceSpec

HEADER, GRPC_HEADER = b"X-Request-Timeout", b"grpc-timeout"
NAME = HEADER.lower()

MAX_GRPC_MS = 99_999_999
"""gRPC's numbers have eight digits."""

_SECONDS = re.compile(rb"\d{1,8}(?:\.\d{1,9})?")
_GRPC = re.compile(rb"(\d{1,8})([HMSmun])")
_UNITS_S = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}


def asked_s(name: bytes, value: bytes) -> float | None:
    """Return the seconds that a field asks for, `name` in lower case; None if it asks for none."""
    if name == NAME:
        return float(value) if _SECONDS.fullmatch(value) else None
    match = _GRPC.fullmatch(value) if name == GRPC_HEADER else None
    return None if match is None else int(match[1]) * _UNITS_S[match[2]]


def allowed_s(spec: ServiceSpec, asked: float | None) -> float:
    """Return the seconds that a request may take; `inf` is no bound."""
    most = inf if spec.timeout_s is None else spec.timeout_s
    return most if asked is None else min(most, asked, MAX_S)


def passed_on(fields: Iterable[Field], left_s: float) -> list[Field]:
    """Return `fields` with what is left in the place of what was asked for."""
    left_ms = max(0, int(left_s * 1000))  # rounded down: whoever is told must not be later
    kept: list[Field] = []
    grpc = False
    for field in fields:
        lower = field[0].lower()
        grpc = grpc or lower == GRPC_HEADER
        if lower not in {NAME, GRPC_HEADER}:
            kept.append(field)
    kept.append((HEADER, f"{left_ms / 1000:.3f}".encode()))
    if grpc:
        kept.append((GRPC_HEADER, b"%dm" % min(MAX_GRPC_MS, left_ms)))
    return kept
