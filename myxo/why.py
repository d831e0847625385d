"""`myxo why`: how requests of this machine's proxies were decided, and what would happen now."""

import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import trio

from myxo.status import ANSWER_TIMEOUT_S, control_sockets, no_proxy
from overlay.control import open_control
from overlay.errors import MyxoError, PeerUnreachable

Answer = Mapping[str, Any]

MAX_TOLD = 3
"""Of a service's decisions in which something was started, waited for or lost."""


class NothingKnown(MyxoError):
    """No proxy of this machine knows such a request or service."""


async def read_why(state_dir: Path, about: str) -> list[dict[str, Any]]:
    """Return what each proxy of this machine says about a request, a service, or all.

    Raises:
        NothingRuns: no proxy answers.
        NothingKnown: none knows what it is about.
    """
    answers: list[dict[str, Any]] = []
    for path in control_sockets(state_dir):
        try:
            with trio.fail_after(ANSWER_TIMEOUT_S):
                async with open_control(path, "why") as connection:
                    await connection.send({"about": about})
                    line = await connection.receive()
        except (PeerUnreachable, trio.TooSlowError):
            continue
        answer = None if line is None else json.loads(line)
        if answer is not None and "decisions" in answer:
            answers.append(answer)
    if not answers:
        raise no_proxy(state_dir)
    if about and not any(a["decisions"] or a["now"] for a in answers):
        raise NothingKnown(
            f"no request {about!r} is remembered and no such service is known here; the last "
            "some hundred requests are: `myxo why` lists them"
        )
    return answers


def as_text(answers: Iterable[Answer], about: str) -> str:
    """Return what a person reads: a line a request, or all about what was asked for."""
    lines: list[str] = []
    for answer in answers:
        if not about:
            lines += [_line(d) for d in answer["decisions"]]
            continue
        for decision in _told(answer):
            lines += [*_decision(decision), ""]
        if answer["now"] is not None:
            lines += _now(answer["now"])
    return "\n".join(lines).rstrip() or "no requests yet"


def _told(answer: Answer) -> list[Answer]:
    """Return what is told whole: all that has an id, of a service the last and what happened."""
    decisions: list[Answer] = answer["decisions"]
    if answer["now"] is None:
        return decisions
    return decisions[:1] + [d for d in decisions[1:] if d["events"]][:MAX_TOLD]


def _line(decision: Answer) -> str:
    total_ms = sum(p["seconds"] for p in decision["phases"]) * 1000
    where = decision["refusal"].partition("\n")[0]
    if decision["chosen"] is not None and not where:
        where = "{instance} on {host}".format(**decision["chosen"])
    starts = sum(e["what"] == "start" for e in decision["events"])
    return (
        f"{_time(decision['at'])}  {decision['request_id']}  {decision['service']}  "
        f"{decision['status'] or '...'}  {total_ms:.1f} ms  {where}"
        + (f"  ({starts} started)" if starts else "")
    )


def _decision(decision: Answer) -> Iterable[str]:
    yield (
        f"request {decision['request_id']} at {_time(decision['at'])} for {decision['service']} "
        f"(revision {decision['revision']}){_bound(decision)}"
    )
    if decision["refusal"]:
        yield f"  answered {decision['status']}: {decision['refusal']}"
    elif decision["chosen"] is not None:
        chosen = "{instance} on {host}".format(**decision["chosen"])
        yield f"  answered {decision['status'] or '...'} by {chosen}, {decision['road']}"
    yield from _instances(decision)
    for event in decision["events"]:
        yield from _event(event)
    spent = ", ".join(f"{p['phase']} {p['seconds'] * 1000:.1f} ms" for p in decision["phases"])
    yield f"  time: {spent}"


def _bound(decision: Answer) -> str:
    limits = decision["limits"]
    bounds = [
        f"{kind} limit {limits[f'{kind}_rtt_s'] * 1000:g} ms"
        for kind in ("soft", "hard")
        if limits[f"{kind}_rtt_s"] is not None
    ]
    asked = f", asked for by {decision['caller']}" if decision.get("caller") else ""
    return asked + "".join(f", {bound}" for bound in bounds)


def _instances(answer: Answer) -> Iterable[str]:
    rows, count = len(answer["candidates"]), answer.get("instances", 0)
    of = f" {rows} of {count}:" if count > rows else ":"
    yield f"  instances{of}" if rows else "  instances: none"
    for row in answer["candidates"]:
        rtt = "unknown" if row["rtt_s"] is None else f"{row['rtt_s'] * 1000:.2f} ms"
        yield (
            f"    {row['instance']} on {row['host']}: RTT {rtt}, "
            f"{row['in_flight']} of {row['concurrency']} in flight, "
            f"expected {row['expected_s'] * 1000:.2f} ms; {row['objection'] or 'usable'}"
        )


def _event(event: Answer) -> Iterable[str]:
    match event["what"]:
        case "start":
            yield f"  start: {event['why']}; {_outcome(event)}"
            yield from _ranking(event["ranking"])
            yield from (f"    {host} offered {offer}" for host, offer in event["offers"].items())
            yield from (f"    refused by {reason}" for reason in event["refused"])
        case "failure":
            yield f"  failed: {event['instance']} on {event['host']}: {event['reason']}"
        case "hedge":
            yield f"  asked {event['instance']} on {event['host']} too, as it took long"
        case "wait":
            yield f"  waited {event['seconds'] * 1000:.1f} ms for room"


def _outcome(event: Answer) -> str:
    return f"started on {event['chosen']}" if event["chosen"] else "nothing was started yet"


def _ranking(ranking: Answer | None) -> Iterable[str]:
    if ranking is None:
        return
    for site in ranking["sites"]:
        parts = ", ".join(f"{name} {s * 1000:.1f}" for name, s in site["parts_s"].items() if s)
        yield f"    {site['host']}: costs {site['cost_s'] * 1000:.1f} ms ({parts or 'nothing'})"
    yield from (f"    not {reason}" for reason in ranking["excluded"])


def _now(now: Answer) -> Iterable[str]:
    if now.get("deleted"):
        yield f"{now['service']} is deleted; a request would be answered 404"
        return
    yield f"now, for {now['service']} (revision {now['revision']}){_bound(now)}"
    yield from _instances(now)
    if now["usable"]:
        yield "  a request would go to the best usable instance; a start would go to:"
    elif now["ranking"]["sites"]:
        yield "  a request would have an instance started; asked in this order:"
    else:
        yield "  a request would be answered 503; no machine would start an instance:"
    yield from _ranking(now["ranking"])


def _time(at: float) -> str:
    return datetime.fromtimestamp(at).astimezone().strftime("%H:%M:%S.%f")[:-3]
