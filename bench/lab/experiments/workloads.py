"""Load drawn as a curve: how many requests a second in each interval, for one or more services.

`ticks` are the requests a second of all hosts together, one for each `interval` of the `duration`.
Each host runs `clients_per_host` clients, and the hosts share the rate equally.
"""

import math
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from bench.lab.durations import seconds
from bench.lab.errors import BadInput
from bench.lab.experiments.steps import (
    CloseClients,
    SetRate,
    SpawnClients,
    Step,
    WaitUntil,
)
from bench.lab.load_hosts import MAX_CLIENTS
from overlay.balancing import POLICIES, canonical

MAX_DURATION_S = 7 * 86_400.0
MAX_TICKS = 100_000
MAX_WORKLOADS = 64
MAX_RATE = 1e6

ALL_HOSTS = ".*"

ARRIVALS = {"constant": "constant", "exponential": "expovariate", "expovariate": "expovariate"}
"""Patterns by the names that people know them by, as the clients call them."""


def _seconds(value: Any) -> float:
    try:
        return seconds(value)
    except (BadInput, TypeError) as exc:
        raise ValueError(str(exc)) from exc  # so that pydantic says in which field


def _policy(written: str) -> str:
    name = canonical(written)
    if name is None:
        raise ValueError(f"{written!r} is none; there are {', '.join(POLICIES)}")
    return name


Seconds = Annotated[float, BeforeValidator(_seconds), Field(gt=0, le=MAX_DURATION_S)]
Rate = Annotated[float, Field(ge=0, le=MAX_RATE)]


class Workload(BaseModel):
    """The load on one service.

    Attributes:
        client: the custom client's name; None sends what `client_parameters` say.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    service: str = Field(min_length=1)
    ticks: tuple[Rate, ...] = Field(min_length=1, max_length=MAX_TICKS)
    clients_per_host: int = Field(3, ge=1, le=MAX_CLIENTS)
    arrival_pattern: Literal["constant", "exponential", "expovariate"] = "constant"
    client: str | None = None
    client_parameters: dict[str, Any] = Field(default_factory=dict)


class Configuration(BaseModel):
    """Loads beside each other.

    Attributes:
        seed: of everything that is drawn.
        policy: by which the proxies spread the services' requests meanwhile; None leaves what
            their definitions say.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    duration: Seconds
    interval: Seconds
    workloads: tuple[Workload, ...] = Field(min_length=1, max_length=MAX_WORKLOADS)
    seed: int | None = None
    policy: Annotated[str, AfterValidator(_policy)] | None = None

    @property
    def services(self) -> list[str]:
        """Return what is asked for."""
        return [workload.service for workload in self.workloads]

    @model_validator(mode="after")
    def _a_policy_of_services(self) -> Self:
        for number, service in enumerate(self.services if self.policy else ()):
            if "://" in service:
                raise ValueError(
                    f"workloads[{number}].service: {service} is a URL, and a policy is for "
                    "services of the network, by their names"
                )
        return self

    @model_validator(mode="after")
    def _as_many_ticks_as_intervals(self) -> Self:
        wanted = self.duration / self.interval
        if not math.isclose(wanted, round(wanted), rel_tol=1e-9):
            raise ValueError(
                f"duration: {self.duration:g} s are no multiple of the interval of "
                f"{self.interval:g} s"
            )
        for number, workload in enumerate(self.workloads):
            if len(workload.ticks) != round(wanted):
                raise ValueError(
                    f"workloads[{number}].ticks: there are {len(workload.ticks)}, and duration / "
                    f"interval is {round(wanted)}"
                )
        services = self.services
        for number, service in enumerate(services):
            if service in services[:number]:
                raise ValueError(f"workloads[{number}].service: {service!r} has a workload already")
        return self


def from_configuration(configuration: Configuration) -> tuple[Step, ...]:
    """Return the steps of a configuration: spawn, the rates tick by tick, close."""
    steps: list[Step] = [_spawn(w, configuration.seed) for w in configuration.workloads]
    for tick in range(round(configuration.duration / configuration.interval)):
        steps.append(WaitUntil(tick * configuration.interval))
        steps += [
            SetRate(ALL_HOSTS, workload.service, workload.ticks[tick], shared=True)
            for workload in configuration.workloads
            if tick == 0 or workload.ticks[tick] != workload.ticks[tick - 1]
        ]
    steps.append(WaitUntil(configuration.duration))
    steps += [SetRate(ALL_HOSTS, w.service, 0, shared=True) for w in configuration.workloads]
    steps += [CloseClients(ALL_HOSTS, w.service) for w in configuration.workloads]
    return tuple(steps)


def _spawn(workload: Workload, seed: int | None) -> SpawnClients:
    return SpawnClients(
        ALL_HOSTS,
        workload.service,
        workload.clients_per_host,
        workload.client,
        workload.client_parameters,
        ARRIVALS[workload.arrival_pattern],
        seed,
    )
