"""How a logged request is written: the command operators of Envoy's access log.

    [%START_TIME%] "%REQ(:METHOD)% %REQ(:PATH)%" %RESPONSE_CODE% %DURATION%

What a request has nothing of is `-`. A format that is an object makes a JSON object of each
request.

Pure: a line of the proxy's access log in, text out.
"""

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator

from myxo.puma.keys import near

_OPERATOR = re.compile(r"%(?:%|([A-Z_]+)(?:\(([^)%]*)\))?%)")

OPERATORS = {
    "START_TIME": "time",
    "RESPONSE_CODE": "status",
    "DURATION": "duration_ms",
    "BYTES_RECEIVED": "received_bytes",
    "BYTES_SENT": "sent_bytes",
    "UPSTREAM_CLUSTER": "service",
    "UPSTREAM_HOST": "instance",
    "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT": "client",
    "TRACE_ID": "trace_id",
}
"""Each, and which member of a line it is."""

FIELDS = {
    ":method": "method",
    ":path": "target",
    "x-envoy-original-path?:path": "target",
    "user-agent": "user_agent",
    "x-request-id": "id",
}
"""The same for `%REQ(…)%`."""

DEFAULT = '[%START_TIME%] "%REQ(:METHOD)% %REQ(:PATH)%" %RESPONSE_CODE% %DURATION% %UPSTREAM_HOST%'


def rendered(text: str | Mapping[str, str], line: Mapping[str, Any]) -> str:
    """Return a request as a format has it."""
    if isinstance(text, str):
        return _OPERATOR.sub(lambda found: _value(found, line), text)
    return json.dumps({key: rendered(value, line) for key, value in text.items()})


def _value(found: re.Match[str], line: Mapping[str, Any]) -> str:
    if found[1] is None:
        return "%"
    value = line.get(FIELDS[found[2].lower()] if found[1] == "REQ" else OPERATORS[found[1]])
    if value is None:
        return "-"
    return str(value).translate(_NO_CONTROLS)


_NO_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(0x20), 0x7F)}
"""A client chooses its path and user agent, and must not make lines of its own."""


def checked(text: str | dict[str, str]) -> str | dict[str, str]:
    """Return a format if each operator in it is known.

    Raises:
        ValueError: one is not; names near ones.
    """
    for one in [text] if isinstance(text, str) else text.values():
        for found in _OPERATOR.finditer(one):
            _check(found)
        if "%" in _OPERATOR.sub("", one):
            raise ValueError(f"{one!r} has a % that is no operator; write %% for one")
    return text


def _check(found: re.Match[str]) -> None:
    name, argument = found[1], found[2]
    if name == "REQ":
        if (argument or "").lower() not in FIELDS:
            raise ValueError(f"%REQ({argument})% is not logged; {near(argument or '', [*FIELDS])}")
    elif name is not None and (name not in OPERATORS or argument is not None):
        raise ValueError(f"there is no {found[0]}; {near(name, ['REQ', *OPERATORS])}")


Format = Annotated[str | dict[str, str], AfterValidator(checked)]
