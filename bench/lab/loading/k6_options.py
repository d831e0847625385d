"""What the options of a k6 script say about when requests are due.

Executors with arrival rates become profiles. VUs are users who ask again when they are answered:
without a pause they become as many requests at once, and with `sleep` a rate, of as many requests a
second as they make if answers take no time.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from bench.lab.durations import seconds
from bench.lab.errors import BadInput

_QUIET = frozenset({"gracefulStop", "gracefulRampDown", "preAllocatedVUs", "maxVUs", "executor"})
"""What has no meaning here, where requests need no VUs."""
_MADE_OF = frozenset(
    {
        "rate",
        "timeUnit",
        "duration",
        "stages",
        "startRate",
        "vus",
        "startVUs",
        "iterations",
        "startTime",
    }
)
_SHORT = ("vus", "duration", "iterations", "stages")
"""Options that stand for a scenario."""
_RATES = frozenset({"constant-arrival-rate", "ramping-arrival-rate"})
_USERS = frozenset({"constant-vus", "ramping-vus"})


class Iteration(NamedTuple):
    """What a user of k6 does again and again: so many requests, and a pause in seconds."""

    requests: int = 1
    pause_s: float = 0.0


def schedule(
    options: Mapping[str, Any], scenario: str | None, iteration: Iteration, notes: list[str]
) -> dict[str, Any]:
    """Return when requests are due, as a `Plan` says it.

    Args:
        options: of the script.
        scenario: which one is meant, where there are several; else the first.
        iteration: of the script.
        notes: where it says what is left out.

    Raises:
        BadInput: they say none that can be made here.
    """
    name, chosen = _chosen(options, scenario, notes)
    understood = {"scenarios", *_SHORT}
    notes += [f"not converted: the option {key}" for key in options if key not in understood]
    notes += [f"not converted: {key} of {name}" for key in chosen if key not in _MADE_OF | _QUIET]
    if (each := iteration.requests) > 1:
        notes.append(f"an iteration sends {each} requests: rates and counts are times that")
    try:
        return _of_executor(chosen, iteration, notes)
    except (KeyError, TypeError, ValueError) as exc:
        raise BadInput(f"{name} lacks, or says by no literal: {exc}") from exc


def _chosen(
    options: Mapping[str, Any], scenario: str | None, notes: list[str]
) -> tuple[str, Mapping[str, Any]]:
    scenarios = options.get("scenarios")
    if not scenarios:
        if scenario is not None:
            raise BadInput(f"there is no scenario {scenario!r}: the script has none")
        return "the script", _of_shorthand(options)
    if not isinstance(scenarios, dict):
        raise BadInput(f"the scenarios are no literal: {scenarios}")
    name = scenario or next(iter(scenarios))
    if name not in scenarios or not isinstance(scenarios[name], dict):
        raise BadInput(f"there is no scenario {name!r}; there are {', '.join(scenarios)}")
    others = [other for other in scenarios if other != name]
    notes += [f"left out: scenario {other}; choose it with --scenario" for other in others]
    return f"scenario {name}", scenarios[name]


def _of_shorthand(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the scenario that the options without one stand for, as k6 has it."""
    chosen = {key: options[key] for key in _SHORT if options.get(key) is not None}
    if "stages" in chosen:
        start = chosen.pop("vus", 1)
        return chosen | {"executor": "ramping-vus", "startVUs": start}
    chosen.setdefault("vus", 1)
    if "iterations" in chosen or "duration" not in chosen:
        chosen.pop("duration", None)
        return {"iterations": 1} | chosen | {"executor": "shared-iterations"}
    return chosen | {"executor": "constant-vus"}


def _of_executor(said: Mapping[str, Any], iteration: Iteration, notes: list[str]) -> dict[str, Any]:
    executor, pause_s = said["executor"], iteration.pause_s
    if executor in _RATES:
        unit_s = _seconds(said.get("timeUnit", "1s")) / iteration.requests
        return _of_rates(said, "rate", said.get("startRate", 0), unit_s)
    if executor in _USERS and pause_s:
        notes.append(f"VUs that sleep {pause_s:g} s became a rate, as if answers took no time")
        return _of_rates(said, "vus", said.get("startVUs", 1), pause_s / iteration.requests)
    if executor == "ramping-vus":
        raise BadInput("VUs that ramp and never sleep have no rate; use ramping-arrival-rate")
    return _at_once(said, executor, iteration.requests)


def _of_rates(said: Mapping[str, Any], steady: str, start: float, unit_s: float) -> dict[str, Any]:
    """Return the profile of a scenario with stages, or with one value under the name `steady`."""
    if "stages" in said:
        stages = [(one["duration"], one["target"]) for one in said["stages"]]
    else:
        start = said[steady]
        stages = [(said["duration"], start)]
    written = [f"{_seconds(length):.12g}s:{target / unit_s:.12g}" for length, target in stages]
    first = f"{start / unit_s:.12g}"
    if wait_s := _seconds(said.get("startTime", 0)):
        written[:0], first = [f"{wait_s:.12g}s:0", f"0s:{first}"], "0"
    return {"profile": f"stages:{first},{','.join(written)}"}


def _at_once(said: Mapping[str, Any], executor: str, requests: int) -> dict[str, Any]:
    vus, iterations = said.get("vus", 1), said.get("iterations", 1)
    match executor:
        case "constant-vus":
            return {"at_once": vus, "duration": _seconds(said["duration"])}
        case "shared-iterations":
            return {"at_once": vus, "count": iterations * requests}
        case "per-vu-iterations":
            return {"at_once": vus, "count": vus * iterations * requests}
    raise BadInput(f"the executor {executor} cannot be converted")


def _seconds(value: object) -> float:
    """Return a duration of k6: text with units, or a number of milliseconds."""
    if isinstance(value, int | float):
        return value / 1000
    if not isinstance(value, str):
        raise TypeError(f"{value} is no duration")
    return seconds(value)
