"""What is compared: services under one load, by each policy and each way to scale.

A *variant* is one policy with one scaling. Each is run several times. Run `k` has the same schedule
for every variant, drawn from the seed plus `k`, so that variants are compared on the same requests;
and each round begins with another variant, so that what drifts on a machine is no variant's own.

Pure, but for reading a file.
"""

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from bench.lab.durations import seconds
from bench.lab.errors import BadInput
from bench.lab.reporting.reactive import Reactive
from overlay.balancing import Balancing, canonical
from overlay.spec import ServiceSpec

AS_DEFINED = "as defined"
"""The policy, and the scaling, that a service's definition has anyway."""

MOST_VARIANTS = 100
MOST_RUNS = 100


class _Said(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Scaling(_Said):
    """How instances come and go; what is left out stays as the definition has it.

    Attributes:
        name: what the report calls it.
        reactive: changes the number of instances while load runs; else Myxo alone decides.

    The others are a definition's own fields (`overlay/spec.py`).
    """

    name: Annotated[str, Field(min_length=1, max_length=64)] = AS_DEFINED
    concurrency: int | None = None
    min_instances: int | None = None
    max_instances: int | None = None
    min_state: str | None = None
    idle_pause_s: float | None = None
    idle_stop_s: float | None = None
    reactive: Reactive | None = None

    def changes(self) -> dict[str, Any]:
        """Return the definition's fields that it says otherwise."""
        said = self.model_dump(exclude={"name", "reactive"}, exclude_none=True)
        if self.reactive is not None:
            said |= exactly(self.reactive.least)
        return said


def exactly(instances: int) -> dict[str, Any]:
    """Return the fields that make so many instances of a service, no more and no fewer."""
    return {"min_instances": instances, "max_instances": instances, "idle_pause_s": 0.0}


class Variant(_Said):
    """One policy with one scaling."""

    policy: str
    scaling: Scaling

    @property
    def name(self) -> str:
        """Return what the report calls it."""
        said = [name for name in (self.policy, self.scaling.name) if name != AS_DEFINED]
        return ", ".join(said) or AS_DEFINED

    def spec(self, original: ServiceSpec) -> ServiceSpec:
        """Return a service's definition in this variant.

        Raises:
            BadInput: there is no such definition.
        """
        said: dict[str, Any] = self.scaling.changes()
        if self.policy != AS_DEFINED:
            kept = original.policy or Balancing()
            said["policy"] = kept.model_copy(update={"name": self.policy})
        return changed(original, said)


def changed(original: ServiceSpec, said: Mapping[str, Any]) -> ServiceSpec:
    """Return a definition with some fields said otherwise.

    Raises:
        BadInput: naming the field that cannot be so.
    """
    try:
        return ServiceSpec.model_validate(original.model_dump() | dict(said))
    except ValidationError as exc:
        raise BadInput(f"no definition can be so: {_first(exc)}") from exc


class ReportPlan(_Said):
    """A whole comparison.

    Attributes:
        services: names; each gets the load, all at the same time.
        policies: the proxy's; `as defined` for the definition's own.
        scaling: ways to scale, each with every policy.
        profile, interval, arrival, duration: of the load, as for `myxo lab load`.
        path: below each service.
        client: the folder or file of a custom client, which makes requests instead.
        runs: of each variant.
        seed: of all schedules.
        processes: that share the load of a service.
    """

    services: Annotated[tuple[str, ...], Field(min_length=1, max_length=100)]
    policies: Annotated[tuple[str, ...], Field(min_length=1)] = (AS_DEFINED,)
    scaling: Annotated[tuple[Scaling, ...], Field(min_length=1)] = (Scaling(),)
    profile: str = "constant:10"
    interval: float | str = 1.0
    arrival: str = "expovariate"
    duration: float | str = 30.0
    path: str = ""
    client: Path | None = None
    runs: Annotated[int, Field(ge=1, le=MOST_RUNS)] = 3
    seed: int = 1
    processes: Annotated[int, Field(ge=1, le=64)] = 1

    @field_validator("policies")
    @classmethod
    def _known(cls, policies: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(_policy(written) for written in policies)

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        for what, names in (
            ("service", self.services),
            ("policy", self.policies),
            ("scaling", [scaling.name for scaling in self.scaling]),
        ):
            if twice := {name for name in names if list(names).count(name) > 1}:
                raise ValueError(f"{what} {min(twice)!r} is there twice")
        if len(self.policies) * len(self.scaling) > MOST_VARIANTS:
            raise ValueError(f"more than {MOST_VARIANTS} variants")
        return self

    @property
    def duration_s(self) -> float:
        """Return the length of a run."""
        return seconds(self.duration)

    @property
    def variants(self) -> Sequence[Variant]:
        """Return what is compared, in the order of the plan."""
        return [
            Variant(policy=policy, scaling=scaling)
            for scaling in self.scaling
            for policy in self.policies
        ]

    def rounds(self) -> Iterator[tuple[int, Variant]]:
        """Yield each run's number, from 0 on, and variant, in the order in which they are run."""
        variants = self.variants
        for run in range(self.runs):
            first = run % len(variants)
            for variant in (*variants[first:], *variants[:first]):
                yield run, variant

    def load(self, service: str, run: int) -> dict[str, Any]:
        """Return a run's load as a load file says it."""
        return {
            "target": f"{service}/{self.path.removeprefix('/')}" if self.path else service,
            "profile": self.profile,
            "interval": self.interval,
            "arrival": self.arrival,
            "duration": self.duration,
            "seed": self.seed + run,
            "client": self.client,
        }


def _policy(written: str) -> str:
    if written.strip() == AS_DEFINED:
        return AS_DEFINED
    name = canonical(written)
    if name is None:
        raise ValueError(f"{written!r} is no policy of the proxy's; docs/services.md lists them")
    return name


def make_plan(said: Mapping[str, Any]) -> ReportPlan:
    """Return what is described.

    Raises:
        BadInput: naming what is wrong.
    """
    try:
        plan = ReportPlan.model_validate(said)
    except ValidationError as exc:
        raise BadInput(f"the plan is wrong: {_first(exc)}") from exc
    if not plan.duration_s:
        raise BadInput("the plan is wrong: a run of no duration measures nothing")
    return plan


def read_plan(path: Path, changes: Mapping[str, Any]) -> ReportPlan:
    """Return what a TOML file describes, with some of it said otherwise.

    Raises:
        BadInput: it cannot be read, or naming what is wrong.
    """
    try:
        said = tomllib.loads(path.read_text())
    except (OSError, ValueError) as exc:
        raise BadInput(f"the plan {path} cannot be read: {exc}") from exc
    return make_plan(said | dict(changes))


def _first(exc: ValidationError) -> str:
    error = exc.errors()[0]
    where = ".".join(str(part) for part in error["loc"])
    return f"{where}: {error['msg']}" if where else str(error["msg"])
