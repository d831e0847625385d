"""Networks that are asked for by name; each says what the link between two hosts is like."""

from collections.abc import Callable
from enum import StrEnum
from random import Random

from bench.netlab import geo
from bench.netlab.link import PERFECT, Link

LAN = Link(delay_s=0.0001, bandwidth_bps=1e9)
"""A switched gigabit network."""

WAN_DELAY_S = (0.005, 0.150)
WAN_LOSS = 0.02
WAN_JITTER = 0.05
"""As a share of the delay."""

GEO_LOSS = 0.001
GEO_JITTER = 0.02


class Preset(StrEnum):
    """The names."""

    NONE = "none"
    LAN = "lan"
    WAN = "wan"
    GEO = "geo"


Between = Callable[[geo.Place, geo.Place, Random], Link]


def _none(_one: geo.Place, _other: geo.Place, _rng: Random) -> Link:
    return PERFECT


def _lan(_one: geo.Place, _other: geo.Place, _rng: Random) -> Link:
    return LAN


def _wan(_one: geo.Place, _other: geo.Place, rng: Random) -> Link:
    """Return a long, lossy link: the same delay both ways, evenly drawn for each pair of hosts."""
    delay_s = rng.uniform(*WAN_DELAY_S)
    return Link(delay_s=delay_s, jitter_s=WAN_JITTER * delay_s, loss=WAN_LOSS)


def _geo(one: geo.Place, other: geo.Place, _rng: Random) -> Link:
    delay_s = geo.delay_s(one, other)
    return Link(delay_s=delay_s, jitter_s=GEO_JITTER * delay_s, loss=GEO_LOSS)


BETWEEN: dict[Preset, Between] = {
    Preset.NONE: _none,
    Preset.LAN: _lan,
    Preset.WAN: _wan,
    Preset.GEO: _geo,
}
