"""The loads of `bench.dialog`: each is some waves of requests, and perhaps a kill, played in time.

A wave asks each service at a fixed rate, whatever the answers do (`load.py`), and is played by
processes of its own. A load that rises is waves that begin one after the other and all end
together; one with bursts is a long wave and short ones on top of it.
"""

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from bench.open_load import OpenLoop, Sent

CONNECTIONS = 32
"""Of each wave to each service."""


@dataclass(frozen=True, slots=True)
class Wave:
    """A part of a load.

    Attributes:
        begins_s: from the beginning of its phase.
        lasts_s: seconds in which requests are due.
        rate: requests a second to each service.
    """

    begins_s: float
    lasts_s: float
    rate: float


@dataclass(frozen=True, slots=True)
class Phase:
    """A load, and what is done meanwhile.

    Attributes:
        name: of the load, for people.
        key: the same, for programs.
        waves: in the order of their beginnings.
        changes: when it changes, in seconds from its beginning.
        kill_s: when an instance is killed, later than any wave begins; None if none is.
    """

    name: str
    key: str
    waves: tuple[Wave, ...]
    changes: tuple[float, ...] = ()
    kill_s: float | None = None

    @property
    def lasts_s(self) -> float:
        """How long requests are due."""
        return max(wave.begins_s + wave.lasts_s for wave in self.waves)


def rising(steps: int, step_s: float, rate: float) -> Phase:
    """Return a load that grows by `rate` every `step_s` seconds, `steps` times from nothing."""
    begins = tuple(n * step_s for n in range(steps))
    waves = tuple(Wave(at, steps * step_s - at, rate) for at in begins)
    return Phase("rising in steps", "rising", waves, begins)


def bursts(count: int, every_s: float, burst: Wave, rate: float) -> Phase:
    """Return a load of `rate` with a burst on top of it in each period of `every_s` seconds.

    Args:
        count: of periods.
        every_s: how long each is.
        burst: the first one.
        rate: requests a second to each service beside bursts.
    """
    begins = tuple(burst.begins_s + n * every_s for n in range(count))
    tops = tuple(Wave(at, burst.lasts_s, burst.rate) for at in begins)
    return Phase("in bursts", "bursts", (Wave(0.0, count * every_s, rate), *tops), begins)


def killing(at_s: float, lasts_s: float, rate: float) -> Phase:
    """Return a load of `rate` during which an instance is killed."""
    return Phase("an instance killed", "kill", (Wave(0.0, lasts_s, rate),), (), at_s)


@dataclass(frozen=True, slots=True)
class Played:
    """A phase that is over.

    Attributes:
        sent: by service, the requests; their `due_s` is from the beginning of the phase.
        changes: when the load changed, or the kill was, likewise.
        ended_s: when it was over, likewise.
    """

    sent: Mapping[str, list[Sent]]
    changes: tuple[float, ...]
    ended_s: float

    @property
    def spans(self) -> list[tuple[float, float]]:
        """From each change to the next one or the end."""
        return list(zip(self.changes, [*self.changes[1:], self.ended_s], strict=True))


def played(phase: Phase, urls: Mapping[str, str], kill: Callable[[], None]) -> Played:
    """Play a phase; return when all its answers have come, or were waited for long enough.

    Args:
        phase: what to play.
        urls: of the services, by name.
        kill: kills an instance.

    Raises:
        AnswerFailed: the load could not be made.
        NetworkFailed: there was no instance to kill.
    """
    began, changes = time.monotonic(), list(phase.changes)
    loads: list[tuple[str, float, Future[list[Sent]]]] = []
    with ThreadPoolExecutor(len(phase.waves) * len(urls)) as readers:
        for wave in phase.waves:
            _sleep_until(began + wave.begins_s)
            for service, url in urls.items():
                load = OpenLoop(
                    url, rate=wave.rate, duration_s=wave.lasts_s, connections=CONNECTIONS
                )
                loads.append((service, load.began - began, readers.submit(load.ended)))
        if phase.kill_s is not None:
            _sleep_until(began + phase.kill_s)
            changes.append(time.monotonic() - began)
            kill()
    sent: dict[str, list[Sent]] = {service: [] for service in urls}
    for service, begun_s, result in loads:
        sent[service] += [one._replace(due_s=one.due_s + begun_s) for one in result.result()]
    return Played(sent, tuple(changes), phase.lasts_s)


def _sleep_until(moment: float) -> None:
    time.sleep(max(0.0, moment - time.monotonic()))
