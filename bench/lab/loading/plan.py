"""What a load is to be: target, requests, when they are due; from a file, or from flags."""

import json
from collections.abc import Iterator
from itertools import cycle, islice, takewhile
from pathlib import Path
from random import Random
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from bench.lab.durations import seconds
from bench.lab.errors import BadInput
from bench.lab.loading.arrivals import CONSTANT
from bench.lab.loading.messages import Message, message
from bench.lab.loading.recording import read_arrivals, read_profile
from bench.lab.loading.schedule import due_times
from bench.lab.loading.target import Target

MOST_REQUESTS = 100_000
"""Different ones in a file."""


def _duration(said: Any) -> float:
    try:
        return seconds(said)
    except BadInput as exc:
        raise ValueError(str(exc)) from exc


Duration = Annotated[float, BeforeValidator(_duration), Field(gt=0)]


class Asked(BaseModel):
    """One request of a load.

    Attributes:
        method, path: what is asked for, below the target.
        kwargs: headers and the like; see `messages.KWARGS`.
        body_file: whose bytes are the body.
        at: when it is due, in seconds from the beginning, where the load repeats a recording.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: str = "GET"
    path: str = ""
    kwargs: dict[str, Any] = Field(default_factory=dict)
    body_file: Path | None = None
    at: Annotated[float, Field(ge=0)] | None = None

    def message(self, target: Target, *, explained: bool) -> Message:
        """Return it as it goes out.

        Raises:
            BadInput: it cannot be made.
        """
        kwargs = dict(self.kwargs)
        if self.body_file is not None:
            kwargs["content"] = _bytes_of(self.body_file)
        return message(target, self.method, self.path, kwargs, explained=explained)


class Plan(BaseModel):
    """A load.

    Attributes:
        target: a URL, or `SERVICE[/PATH]`.
        requests: sent one after the other, again and again; a GET of the target if there are none.
        client: the directory or file of a custom client, which makes requests instead.
        parameters: of the custom client.
        profile: the rate over time; see `profiles`.
        interval: seconds of a tick or step of it.
        arrival: a distribution; brought to the profile's rate where there is one.
        duration: seconds in which requests are due.
        count: of requests; where there is no profile.
        at_once: so many are under way, each sent when one is answered; instead of a schedule.
        seed: of every draw.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    target: str
    requests: tuple[Asked, ...] = Field(default=(), max_length=MOST_REQUESTS)
    client: Path | None = None
    parameters: dict[str, Any] = Field(default_factory=dict)
    profile: str | None = None
    interval: Duration = 1.0
    arrival: str | None = None
    duration: Duration | None = None
    count: Annotated[int, Field(gt=0)] | None = None
    at_once: Annotated[int, Field(gt=0)] | None = None
    seed: int | None = None

    @property
    def recorded(self) -> bool:
        """Return whether it says when each request is due."""
        return any(one.at is not None for one in self.requests)

    def times(self, random: Random) -> Iterator[float]:
        """Yield when requests are due, in seconds from the beginning.

        Raises:
            BadInput: it does not say so.
        """
        if self.recorded:
            return iter(sorted(one.at or 0.0 for one in self.requests))
        if self.profile is not None:
            arrivals = CONSTANT if self.arrival is None else read_arrivals(self.arrival)
            profile = read_profile(self.profile, self.interval)
            return due_times(profile, arrivals, self.duration, random)
        if self.arrival is None:
            raise BadInput("say when requests are due: a profile, an arrival, or at_once")
        return self._following(random)

    def messages(self, target: Target, *, explained: bool) -> Iterator[Message]:
        """Return its requests, one after the other, without end.

        Raises:
            BadInput: one cannot be made.
        """
        asked = sorted(self.requests, key=lambda one: one.at or 0.0) or [Asked()]
        return cycle([one.message(target, explained=explained) for one in asked])

    def _following(self, random: Random) -> Iterator[float]:
        times = read_arrivals(self.arrival or "").times(random)
        if self.duration is not None:
            end = self.duration
            times = takewhile(lambda at: at < end, times)
        return islice(times, self.count)

    def checked(self) -> "Plan":
        """Return it.

        Raises:
            BadInput: what it says contradicts itself, or has no end.
        """
        said = {"profile": self.profile, "arrival": self.arrival, "at_once": self.at_once}
        given = [name for name, value in said.items() if value is not None]
        if self.recorded and (given or any(one.at is None for one in self.requests)):
            raise BadInput("requests with `at` are a recording: all have it, and nothing else does")
        if self.at_once is not None and len(given) > 1:
            raise BadInput("at_once is a load without a schedule: leave profile and arrival out")
        if self.profile is not None and self.count is not None:
            raise BadInput("a profile says how many requests there are: leave count out")
        if not self.recorded and self.profile is None and self.count is self.duration is None:
            raise BadInput("the load has no end: give it a duration or a count")
        if self.client is not None and self.requests:
            raise BadInput("requests come from the client's code or from the list, not from both")
        return self


def read_plan(path: Path, changes: dict[str, Any]) -> Plan:
    """Return what a file of JSON or YAML says, with some of it said otherwise.

    Raises:
        BadInput: it cannot be read, or says what makes no load.
    """
    try:
        said = yaml.safe_load(path.read_text()) if path.suffix != ".json" else _json(path)
    except (OSError, UnicodeDecodeError, ValueError, yaml.YAMLError) as exc:
        raise BadInput(f"the load file {path} cannot be read: {exc}") from exc
    if not isinstance(said, dict):
        raise BadInput(f"the load file {path} is no mapping")
    return make_plan(said | changes, f"the load file {path}")


def make_plan(said: dict[str, Any], where: str = "the load") -> Plan:
    """Return a load.

    Raises:
        BadInput: it makes none; the message says which field is wrong.
    """
    try:
        return Plan.model_validate(said).checked()
    except ValidationError as exc:
        first = exc.errors()[0]
        field = ".".join(str(one) for one in first["loc"])
        raise BadInput(f"{where}: {field}: {first['msg']}") from exc


def _json(path: Path) -> object:
    return json.loads(path.read_text())


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise BadInput(f"the body {path} cannot be read: {exc.strerror}") from exc
