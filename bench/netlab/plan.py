"""What a lab consists of: its hosts, and the link between each two of them.

A plan is written by a person, as TOML or JSON, or made by `make_plan`; `docs/netlab.md` shows one.
What says more about a link beats what says less, field by field: the preset, then `default`, then
`regions`, then `links`. Milliseconds and megabits are for people; `Link` has seconds and bits.
"""

import json
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from ipaddress import IPv4Network
from itertools import permutations
from pathlib import Path
from random import Random
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from bench.netlab import geo
from bench.netlab.errors import PlanInvalid
from bench.netlab.link import Link
from bench.netlab.presets import BETWEEN, Preset

NETWORK = "10.77.0.0/16"
"""Of the hosts' addresses; it exists inside of the lab only."""

ETHERNET_MTU = 1500
MAX_HOSTS = 200
"""Each costs three processes and some descriptors; links grow with the square."""

NAME = r"^[a-z][a-z0-9-]{0,30}$"

_MS = 1000.0
_MBIT = 1e6


class Nat(StrEnum):
    """What stands between a host and the others.

    `CONE` is the usual home router: one outside port for each inside one, whoever is spoken to, but
    only who was spoken to is let in: holes can be punched. `SYMMETRIC` takes a random outside port
    for each destination, which defeats hole punching. Both drop what nobody asked for.
    """

    NONE = "none"
    CONE = "cone"
    SYMMETRIC = "symmetric"


@dataclass(frozen=True, slots=True)
class HostPlan:
    """A host as it is to be.

    Attributes:
        address: under which the others see it; that of its home router if it has one.
        engine: whether it has a Docker engine of its own.
    """

    name: str
    address: str
    nat: Nat = Nat.NONE
    engine: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """What is made: hosts, and a link for each ordered pair of their names.

    Attributes:
        prefix: bits of the network that all addresses are of.
        mtu: of every host's interface.
        seed: of loss and jitter.
    """

    hosts: tuple[HostPlan, ...]
    links: Mapping[tuple[str, str], Link] = field(repr=False)
    prefix: int = 16
    mtu: int = ETHERNET_MTU
    seed: int = 0


class _Written(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class LinkSpec(_Written):
    """A link as a person writes it; what is left out stays as it was."""

    delay_ms: float | None = Field(None, ge=0)
    """One way."""

    jitter_ms: float | None = Field(None, ge=0)
    """Standard deviation of the delay."""

    loss: float | None = Field(None, ge=0, le=1)
    """Share of the packets."""

    bandwidth_mbps: float | None = Field(None, gt=0)
    """10^6 bits a second."""

    queue_ms: float | None = Field(None, ge=0)
    """How long a packet may wait for the line."""

    reorder: bool | None = None
    """Let packets overtake each other."""

    def fields(self) -> dict[str, Any]:
        """Return what is said here, as fields of `Link`."""
        said = {
            "delay_s": self.delay_ms and self.delay_ms / _MS,
            "jitter_s": self.jitter_ms and self.jitter_ms / _MS,
            "loss": self.loss,
            "bandwidth_bps": self.bandwidth_mbps and self.bandwidth_mbps * _MBIT,
            "queue_s": self.queue_ms and self.queue_ms / _MS,
            "reorder": self.reorder,
        }
        return {name: value for name, value in said.items() if value is not None}


class HostSpec(_Written):
    """A host as a person writes it."""

    name: str = Field(pattern=NAME)
    region: str | None = None
    city: str | None = None
    latitude: float | None = Field(None, ge=-90, le=90)
    longitude: float | None = Field(None, ge=-180, le=180)
    nat: Nat = Nat.NONE
    engine: bool = False

    @model_validator(mode="after")
    def _has_one_place(self) -> Self:
        if self.city is not None and self.city not in geo.CITIES:
            raise ValueError(f"city {self.city!r} is not one of {', '.join(sorted(geo.CITIES))}")
        if (self.latitude is None) != (self.longitude is None):
            raise ValueError("latitude and longitude go together")
        return self

    def place(self, position: int) -> geo.Place:
        """Return where it is; a city by its position in the plan if it does not say."""
        if self.latitude is not None and self.longitude is not None:
            return geo.Place(self.latitude, self.longitude)
        names = list(geo.CITIES)
        return geo.CITIES[self.city or names[position % len(names)]]


class BetweenSpec(LinkSpec):
    """A link and where it is: `between` two names, both ways, or `from` one `to` another."""

    between: tuple[str, str] | None = None
    source: str | None = Field(None, alias="from")
    target: str | None = Field(None, alias="to")

    @model_validator(mode="after")
    def _is_somewhere(self) -> Self:
        one_way = (self.source is not None) + (self.target is not None)
        if one_way + 2 * (self.between is not None) != 2:
            raise ValueError('say either between = ["a", "b"], or from = "a" and to = "b"')
        return self

    def directions(self) -> Iterator[tuple[str, str]]:
        """Yield the ordered pairs that it is about."""
        if self.between is not None:
            yield self.between
            yield self.between[::-1]
        elif self.source is not None and self.target is not None:
            yield self.source, self.target


class LabSpec(_Written):
    """A whole lab as a person writes it; `hosts` is a list, or how many, then named h1 to hN."""

    hosts: tuple[HostSpec, ...]
    preset: Preset = Preset.NONE
    seed: int = 0
    mtu: int = Field(ETHERNET_MTU, ge=576, le=65_535)
    network: IPv4Network = IPv4Network(NETWORK)
    default: LinkSpec = LinkSpec()
    regions: tuple[BetweenSpec, ...] = ()
    links: tuple[BetweenSpec, ...] = ()

    @field_validator("hosts", mode="before")
    @classmethod
    def _named(cls, hosts: Any) -> Any:
        if not isinstance(hosts, int):
            return hosts
        return [{"name": f"h{n}"} for n in range(1, min(hosts, MAX_HOSTS + 1) + 1)]

    @model_validator(mode="after")
    def _names_are_known(self) -> Self:
        names = [host.name for host in self.hosts]
        if not 1 <= len(names) <= min(MAX_HOSTS, self.network.num_addresses - 2):
            raise ValueError(f"a lab has 1 to {MAX_HOSTS} hosts, and an address for each")
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"two hosts are named {', '.join(sorted(twice))}")
        _all_known(self.links, names, "host")
        _all_known(self.regions, [host.region for host in self.hosts], "region")
        return self

    def plan(self) -> Plan:
        """Return what this says, worked out for each host and link."""
        hosts = tuple(
            HostPlan(spec.name, str(self.network[position]), spec.nat, spec.engine)
            for position, spec in enumerate(self.hosts, 1)
        )
        return Plan(
            hosts=hosts,
            links={(a.name, b.name): link for a, b, link in self._links()},
            prefix=self.network.prefixlen,
            mtu=self.mtu,
            seed=self.seed,
        )

    def _links(self) -> Iterator[tuple[HostSpec, HostSpec, Link]]:
        places = {spec.name: spec.place(position) for position, spec in enumerate(self.hosts)}
        preset = BETWEEN[self.preset]
        regions, links = _by_direction(self.regions), _by_direction(self.links)
        for a, b in permutations(self.hosts, 2):
            rng = Random(f"{self.seed}:{min(a.name, b.name)}:{max(a.name, b.name)}")  # noqa: S311
            fields = self.default.fields()
            fields |= regions.get((a.region or "", b.region or ""), {})
            fields |= links.get((a.name, b.name), {})
            yield a, b, replace(preset(places[a.name], places[b.name], rng), **fields)


def _by_direction(specs: Iterable[BetweenSpec]) -> dict[tuple[str, str], dict[str, Any]]:
    said: dict[tuple[str, str], dict[str, Any]] = {}
    for spec in specs:
        for direction in spec.directions():
            said[direction] = said.get(direction, {}) | spec.fields()
    return said


def _all_known(specs: Iterable[BetweenSpec], names: Sequence[str | None], what: str) -> None:
    for spec in specs:
        for name in next(spec.directions()):
            if name not in names:
                raise ValueError(f"no {what} is named {name!r}")


def make_plan(**said: Any) -> Plan:
    """Return the plan that `said` describes, with the names of a plan's file.

    Raises:
        PlanInvalid: naming what is wrong.
    """
    try:
        return LabSpec.model_validate(said).plan()
    except ValidationError as exc:
        raise PlanInvalid(f"the plan is wrong: {reasons(exc)}") from exc


def read_plan(path: Path, **said: Any) -> Plan:
    """Return the plan in the file at `path`, TOML or JSON by its name; `said` beats the file.

    Raises:
        PlanInvalid: it cannot be read, or naming what is wrong.
    """
    try:
        text = path.read_text()
        written = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
        return LabSpec.model_validate(written | said).plan()
    except OSError as exc:
        raise PlanInvalid(f"{path} cannot be read: {exc.strerror}") from exc
    except ValidationError as exc:
        raise PlanInvalid(f"{path} is wrong: {reasons(exc)}") from exc
    except (ValueError, TypeError) as exc:
        raise PlanInvalid(f"{path} is no TOML or JSON: {exc}") from exc


def reasons(exc: ValidationError) -> str:
    """Return what is wrong and where, in one line for a person."""
    return "; ".join(
        f"{'.'.join(map(str, error['loc']))}: {error['msg']}" if error["loc"] else error["msg"]
        for error in exc.errors()
    )
