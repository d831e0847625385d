"""Reactive autoscaling, as Symmetry has it: one instance more when they are busy, one less if not.

Samples of a metric, in percent, are averaged over a window. Over `up` an instance is added, under
`down` one is taken away, and after each change nothing is changed for the cooldown. Two things
differ from Symmetry's. Samples older than the window are dropped, which it forgot. And after a
change the window begins anew: what was measured of another number of instances says nothing of
this one.

Pure: samples and the time in, how many instances there shall be out.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

MOST_SAMPLES = 10_000
"""In a window; who samples more often than that loses the oldest."""


class Reactive(BaseModel):
    """The policy's settings; the defaults are Symmetry's.

    Attributes:
        metric: `cpu`, of this machine's processors, or `busy`, requests in flight as a share of
            what the instances take at once (`concurrency`). In percent.
        up: over it an instance is added.
        down: under it one is taken away.
        cooldown_s: seconds from a change to the next.
        window_s: seconds whose samples count.
        period_s: seconds from sample to sample.
        least, most: instances.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    metric: Literal["cpu", "busy"] = "cpu"
    up: float = Field(80.0, ge=0)
    down: float = Field(25.0, ge=0)
    cooldown_s: float = Field(20.0, ge=0)
    window_s: float = Field(10.0, gt=0)
    period_s: float = Field(1.0, gt=0)
    least: int = Field(1, ge=1)
    most: int = Field(10, ge=1, le=1000)

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.down >= self.up:
            raise ValueError("down is below up, or it would go back and forth")
        if self.least > self.most:
            raise ValueError("least is at most most")
        return self


@dataclass(slots=True)
class Scaler:
    """How many instances there shall be, as samples come in.

    Attributes:
        settings: by which it decides.
        instances: how many there shall be now.
    """

    settings: Reactive
    instances: int = 0
    _samples: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=MOST_SAMPLES))
    _changed_at: float | None = None

    def __post_init__(self) -> None:
        self.instances = max(self.instances, self.settings.least)

    def take(self, now: float, percent: float) -> int:
        """Take in a sample; return how many instances there shall be from now on."""
        self._samples.append((now, percent))
        while self._samples[0][0] < now - self.settings.window_s:
            self._samples.popleft()
        wanted = self._wanted()
        if wanted != self.instances and not self._cools(now):
            self.instances, self._changed_at = wanted, now
            self._samples.clear()
        return self.instances

    def _wanted(self) -> int:
        mean = sum(percent for _, percent in self._samples) / len(self._samples)
        step = (mean > self.settings.up) - (mean < self.settings.down)
        return min(max(self.instances + step, self.settings.least), self.settings.most)

    def _cools(self, now: float) -> bool:
        return self._changed_at is not None and now - self._changed_at < self.settings.cooldown_s
