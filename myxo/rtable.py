"""Commands on the routing tables of this machine's proxies."""

import json
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import trio

from myxo.status import ANSWER_TIMEOUT_S, NothingRuns, control_sockets, no_proxy
from overlay.control import open_control
from overlay.errors import MyxoError, PeerUnreachable

Answer = Mapping[str, Any]
Ask = Callable[[Mapping[str, Any]], Awaitable[Sequence[Answer]]]
"""Has each proxy do a command; the answers tell, as `proxy`, which it was."""


class RtableFailed(MyxoError):
    """A command on the routing table was refused, or written wrongly."""


def command(name: str, given: Sequence[str]) -> dict[str, Any]:
    """Return what a proxy is sent for a command on its table.

    Raises:
        RtableFailed: a weight is no number.
    """
    if name == "unset":
        return {"do": name, "service": given[0]}
    if name != "set":
        return {"do": name}
    weights = None
    if len(given) > 2:  # noqa: PLR2004
        try:
            weights = [float(weight) for weight in given[2].split(",")]
        except ValueError as exc:
            raise RtableFailed(f"argument error: {given[2]!r} are no weights, such as 1,2") from exc
    return {"do": name, "service": given[0], "hosts": given[1].split(","), "weights": weights}


def as_text(name: str, answers: Sequence[Answer]) -> Iterator[str]:
    """Yield what a person reads of the proxies' answers; the same one is shown once.

    Raises:
        RtableFailed: a proxy refused.
    """
    shown: list[list[str]] = []
    for answer in answers:
        if "error" in answer:
            raise RtableFailed(f"proxy {answer['proxy']}: {answer['error']}")
        lines = list(_lines(name, answer))
        if lines not in shown:
            shown.append(lines)
            if len(shown) > 1 or (len(answers) > 1 and name in {"list", "updates"}):
                yield f"proxy {answer['proxy']}:"
            yield from lines


def _lines(name: str, answer: Answer) -> Iterator[str]:
    match name:
        case "set":
            yield f"ok {_record(answer['record'])}"
        case "unset" | "clear":
            yield f"ok, {answer['unset']} unset"
        case "flush":
            yield f"ok, {answer['flushed']} forgotten"
        case "list":
            yield from _table(answer["records"])
        case "updates":
            yield from (update_line(update) for update in answer["updates"])
        case "info":
            yield (
                f"proxy {answer['proxy']}: {answer['services']} services, {answer['targets']} "
                f"targets, {answer['updates']} updates; kept in {answer['file'] or 'no file'}"
            )


def update_line(update: Answer) -> str:
    """Return a change as a person reads it."""
    at = datetime.fromtimestamp(update["at"]).astimezone().strftime("%H:%M:%S.%f")[:-3]
    if update["record"] is None:
        return f"{at}  {update['service']} unset"
    return f"{at}  {_record(update['record'])}"


def _record(record: Answer) -> str:
    weights = ", ".join(f"{weight:g}" for weight in record["weights"])
    return f"{record['service']}: {', '.join(record['hosts'])} at {weights}"


def _table(records: Sequence[Answer]) -> Iterator[str]:
    rows = [("Service", "Hosts", "Weights")]
    for record in records:
        weights = ",".join(f"{weight:g}" for weight in record["weights"])
        rows.append((record["service"], ",".join(record["hosts"]), weights))
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    for row in rows:
        yield f"{row[0]:{widths[0]}}  {row[1]:{widths[1]}}  {row[2]}"


def ask_proxies(state_dir: Path, port: int | None) -> Ask:
    """Return what has the proxies of this machine do a command, or the one at `port`."""
    return partial(_ask, state_dir, port)


def follow_proxies(
    state_dir: Path, port: int | None, show: Callable[[Answer], None]
) -> Callable[[], Awaitable[None]]:
    """Return what shows each change of the proxies' tables, until it is cancelled."""
    return partial(_follow, state_dir, port, show)


def _proxies(state_dir: Path, port: int | None) -> list[Path]:
    pattern = "proxy-*.sock" if port is None else f"proxy-{port}.sock"
    found = [path for path in control_sockets(state_dir) if path.match(pattern)]
    if not found:
        where = "" if port is None else f" at port {port}"
        raise no_proxy(state_dir, where)
    return found


async def _ask(state_dir: Path, port: int | None, given: Mapping[str, Any]) -> list[Answer]:
    answers: list[Answer] = []
    for path in _proxies(state_dir, port):
        try:
            with trio.fail_after(ANSWER_TIMEOUT_S):
                async with open_control(path, "rtable") as connection:
                    await connection.send(given)
                    line = await connection.receive()
        except (PeerUnreachable, trio.TooSlowError):
            continue
        if line is not None:
            name = path.stem.removeprefix("proxy-")
            answers.append({"proxy": name, **json.loads(line)})
    if not answers:
        raise NothingRuns(f"no proxy answers (looked in {state_dir / 'run'})")
    return answers


async def _follow(state_dir: Path, port: int | None, show: Callable[[Answer], None]) -> None:
    async with trio.open_nursery() as nursery:
        for path in _proxies(state_dir, port):
            nursery.start_soon(_follow_one, path, show)


async def _follow_one(path: Path, show: Callable[[Answer], None]) -> None:
    async with open_control(path, "rtable") as connection:
        await connection.send({"do": "follow"})
        while (line := await connection.receive()) is not None:
            update = json.loads(line)
            if "service" in update:
                show(update)
