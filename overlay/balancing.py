"""How a service's requests are spread over its instances, as its definition says it.

The names are Envoy's, in one spelling; `canonical` also takes what PUMA's configuration and papers
write ("weighted least request", `ORIGINAL_DST_LB`) and the queue simulator's RR, R and TC. A name
in a definition is any word: who does not know it, being of an older version, spreads as by default.
"""

from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

PEAK_EWMA: Final = "peak_ewma"
"""The default."""

ORIGINAL_DESTINATION: Final = "original_destination"
STATIC: Final = "static"

POLICIES: Final = (
    PEAK_EWMA,
    "round_robin",
    "weighted_round_robin",
    "random",
    "weighted_random",
    "least_request",
    "weighted_least_request",
    "ring_hash",
    "maglev",
    STATIC,
    ORIGINAL_DESTINATION,
)

HASHING: Final = frozenset({"ring_hash", "maglev"})
"""Those that want to know what to hash."""

WEIGHTED: Final = frozenset({"weighted_round_robin", "weighted_random", "weighted_least_request"})
"""Those that weights change anything for."""

MAX_WEIGHT: Final = 1000.0
"""Of a backend; what is a thousand times as strong as another needs no policy to tell."""

MAX_WEIGHTS: Final = 1000
"""Hosts that are named."""

HASH_PATTERN: Final = r"^(client|path|(header|cookie):[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128})$"
"""`header:NAME` and `cookie:NAME` with a token of RFC 9110 as name."""

COOKIE_PATTERN: Final = r"^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}$"

_OTHER_NAMES: Final = {
    "default": PEAK_EWMA,
    "rr": "round_robin",
    "r": "random",
    "tc": "least_request",
    "two_choices": "least_request",
    "power_of_two_choices": "least_request",
    "p2c": "least_request",
    "wrr": "weighted_round_robin",
    "smooth_weighted_round_robin": "weighted_round_robin",
    "ringhash": "ring_hash",
    "original_dst": ORIGINAL_DESTINATION,
    "original_dst_lb": ORIGINAL_DESTINATION,
    "routing_table": STATIC,
}

Weight = Annotated[float, Field(ge=0, le=MAX_WEIGHT, allow_inf_nan=False)]
Host = Annotated[str, StringConstraints(min_length=1, max_length=253)]


class Balancing(BaseModel):
    """The policy of a service.

    Attributes:
        name: one of `POLICIES`, or of a later version's.
        hash: what a hashing policy hashes: `client`, `path`, `header:NAME` or `cookie:NAME`.
        weights: by the name of the machine that an instance is on; 1 where none is given. An
            instance of weight 0 gets requests only where no other can take them.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,63}$")] = PEAK_EWMA
    hash: Annotated[str, StringConstraints(pattern=HASH_PATTERN)] | None = None
    weights: dict[Host, Weight] = Field(default_factory=dict, max_length=MAX_WEIGHTS)


Sticky = Literal[False] | Annotated[str, StringConstraints(pattern=COOKIE_PATTERN)]
"""The cookie that ties a client to an instance."""

DEFAULT_COOKIE: Final = "myxo-instance"


def spellings(name: str) -> list[str]:
    """Return the other names of a policy that `canonical` knows."""
    return [other for other, meant in _OTHER_NAMES.items() if meant == name]


def canonical(written: str) -> str | None:
    """Return the policy that `written` names in any known spelling; None if it names none."""
    name = written.strip().lower().replace(" ", "_").replace("-", "_")
    name = _OTHER_NAMES.get(name, name)
    return name if name in POLICIES else None
