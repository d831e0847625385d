"""A client: the process that a load host starts for it, and that sends its requests.

It is told what to do in lines, and tells what comes of it, see `child.py`. It ends with the load
host that it works for, however that ends, and whatever the user's own code is at by then.
"""

import json
import os
import select
import socket
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import repeat
from math import inf
from pathlib import Path
from random import Random
from typing import Any

import trio

from bench.lab.errors import BadInput, LabError
from bench.lab.hosts.one_request import ask
from bench.lab.loading.arrivals import parse_arrivals
from bench.lab.loading.client import Client, open_client
from bench.lab.loading.custom import Context, find_client, messages
from bench.lab.loading.messages import Message, message
from bench.lab.loading.target import Target, target_of
from bench.lab.request_trace import RequestTrace
from overlay.control import ControlConnection
from overlay.errors import PeerUnreachable

REPORT_S = 0.25
"""Between two reports of how it stands."""

ROWS = 100
"""Traces in one line: at most some 700 KB, where names are as long as they may be."""

BACKLOG = 1000
"""Rates that may be told within the wait for a turn."""


class LineSink:
    """A `TraceSink` that tells the load host."""

    def __init__(self, connection: ControlConnection) -> None:
        self._connection = connection

    async def write(self, traces: Sequence[RequestTrace]) -> None:
        """See `TraceSink`; the load host keeps them in its memory."""
        for at in range(0, len(traces), ROWS):
            await _say(self._connection, "traces", traces=traces[at : at + ROWS])


class Worker:
    """Does what the load host says.

    Args:
        connection: to it.
        client: sends the requests.
    """

    def __init__(self, connection: ControlConnection, client: Client) -> None:
        self._connection = connection
        self._client = client
        self._closing = False

    async def work(self) -> None:
        """Do what is said until `close` is, or the load host is gone."""
        rates, to_set = trio.open_memory_channel[tuple[float, float]](BACKLOG)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._report)
            nursery.start_soon(self._set_rates, to_set)
            async with trio.open_nursery() as sending:
                while (line := await self._connection.receive()) is not None:
                    said = json.loads(line)
                    match said["do"]:
                        case "rate":
                            await rates.send((said["rate"], said["phase"]))
                        case "send":
                            sending.start_soon(self._send, said)
                        case "flush":
                            sending.start_soon(self._flush, said["number"])
                        case "close":
                            break
                self._closing = True
                await self._client.finish()
            nursery.cancel_scope.cancel()
        await self._tell_counts()

    async def _send(self, said: Mapping[str, Any]) -> None:
        trouble = ""
        gaps = said["inter_arrival"]
        if isinstance(gaps, list):
            gaps = (gaps[0], *gaps[1])
        try:
            if not self._closing:
                await self._client.request(said["count"], gaps)
        except BadInput as exc:
            trouble = str(exc)
        if self._closing and said["count"] is not None:
            trouble = "it was closed before all were sent"
        await self._tell_counts()
        await _say(self._connection, "ended", task=said["task"], trouble=trouble)

    async def _flush(self, number: int) -> None:
        await self._client.flush()
        await _say(self._connection, "flushed", number=number)

    async def _set_rates(self, told: trio.MemoryReceiveChannel[tuple[float, float]]) -> None:
        """Set rates as they are told, the first above 0 when this client's turn comes.

        The clients of one host take turns: with constant gaps they send together, at the rate that
        they share, just what one of them would.
        """
        rate, phase = await told.receive()
        while rate == 0:
            self._client.set_rate(0)
            rate, phase = await told.receive()
        rate = await self._turn(told, rate, phase)
        while True:
            self._client.set_rate(rate)
            rate, _ = await told.receive()

    async def _turn(
        self, told: trio.MemoryReceiveChannel[tuple[float, float]], rate: float, owed: float
    ) -> float:
        """Wait for `owed` of the time between two requests; return the rate by then."""
        while owed > 0:
            began = trio.current_time()
            with trio.move_on_after(owed / rate if rate else inf):
                following, _ = await told.receive()
                owed -= (trio.current_time() - began) * rate
                rate = following
                if rate == 0:
                    self._client.set_rate(0)
                continue
            break
        return rate

    async def _report(self) -> None:
        told = None
        while True:
            if told != (told := self._counts()):
                await self._tell_counts()
            await trio.sleep(REPORT_S)

    async def _tell_counts(self) -> None:
        sent, failed, queue = self._counts()
        await _say(self._connection, "status", sent=sent, failed=failed, queue=queue)

    def _counts(self) -> tuple[int, int, int]:
        tally = self._client.tally
        return tally.sent, tally.failed + tally.unsent, self._client.queue


async def run(descriptor: int) -> None:
    """Be a client for the load host at the other end of a socket."""
    sock = trio.socket.from_stdlib_socket(socket.socket(fileno=descriptor))
    connection = ControlConnection(trio.SocketStream(sock))
    line = await connection.receive()
    if line is None:
        return
    try:
        await _be(connection, json.loads(line))
    except* LabError as group:
        await _say(connection, "broken", why=str(_first(group)))
    except* PeerUnreachable:
        pass  # the load host is gone, or has had enough


async def _be(connection: ControlConnection, job: Mapping[str, Any]) -> None:
    target = target_of(job["service"], job["proxy"])
    next_message = _requests(target, job)
    if job["once"]:
        await _say(connection, "ready")
        answered = await ask(target, next_message())
        await _say(connection, "answered", answer=answered.model_dump(mode="json"))
        return
    async with open_client(
        target,
        next_message,
        client_id=job["client"],
        host=job["host"],
        exp_id=job["exp_id"],
        sink=LineSink(connection) if job["traced"] else None,
        arrivals=parse_arrivals(job["arrival"]),
        seed=job["seed"],
    ) as client:
        await _say(connection, "ready")
        await Worker(connection, client).work()


def _requests(target: Target, job: Mapping[str, Any]) -> Callable[[], Message]:
    """Return what makes each request: the user's client, or what the parameters say.

    Raises:
        LabError: there are no such requests.
    """
    parameters = job["parameters"]
    if job["app"] is not None:
        random = Random(job["seed"])  # noqa: S311  (load is no secret)
        context = Context(parameters, job["client"], random)
        client = find_client(Path(job["app"]))
        return messages(client, target, context, explained=target.of_myxo)
    unknown = parameters.keys() - {"method", "path", "kwargs"}
    if unknown:
        names = ", ".join(sorted(unknown))
        raise BadInput(
            f"a client without code of its own takes method, path and kwargs, not {names}"
        )
    made = message(target, **parameters, explained=target.of_myxo)
    return partial(next, repeat(made))


async def _say(connection: ControlConnection, what: str, **more: Any) -> None:
    await connection.send({"said": what, **more})


def _first(group: BaseExceptionGroup[LabError]) -> BaseException:
    found: BaseException = group
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found


def _end_with(pid: int) -> None:
    """End this process when the one that started it ends, from a thread of its own.

    Not by prctl(PR_SET_PDEATHSIG), which watches the thread that started it.
    """
    try:
        select.select([os.pidfd_open(pid)], [], [])
    finally:
        os._exit(1)


def main() -> None:
    """Run as `python -m bench.lab.hosts.client_process DESCRIPTOR`."""
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    trio.run(run, int(sys.argv[1]))


if __name__ == "__main__":
    main()
