"""`myxo forward`: has this machine's proxy listen on local ports that lead to services."""

from collections.abc import Callable
from pathlib import Path

import trio
from pydantic import ValidationError

from myxo.status import ANSWER_TIMEOUT_S, NothingRuns, control_sockets, no_proxy
from overlay.control import ControlConnection, open_control
from overlay.errors import MyxoError, PeerUnreachable, SettingsInvalid
from proxy.layer4.forward_orders import WANT, Answer, Forwarded, Open, Order, Remove, Show


class ForwardRefused(MyxoError):
    """The proxy does not follow the order; says why."""


def order(to: str, host: str, port: int, *, keep: bool) -> Open:
    """Return the order to open a port.

    Raises:
        SettingsInvalid: it cannot be one; says what is wrong.
    """
    if not to:
        raise SettingsInvalid("say which service the port leads to; `registry-cli list` shows them")
    try:
        return Open.model_validate({"to": to, "host": host, "port": port, "keep": keep})
    except ValidationError as exc:
        fault = exc.errors()[0]
        raise SettingsInvalid(f"--{fault['loc'][0]}: {fault['msg']}") from exc


async def forward(
    state_dir: Path,
    order: Open,
    proxy_port: int | None,
    opened: Callable[[Forwarded], None],
    trouble: Callable[[str], None],
) -> None:
    """Have a port listened on until this is cancelled or the proxy ends; return if it is kept.

    Args:
        state_dir: of this machine's daemons.
        order: what to open.
        proxy_port: which of this machine's proxies; the first one that answers if None.
        opened: told what was opened.
        trouble: told why a connection was not carried.

    Raises:
        NothingRuns: no proxy answers, or it ended.
        ForwardRefused: it says no.
    """
    path = _proxy(state_dir, proxy_port)
    async with open_control(path, WANT) as connection:
        answer = await _asked(connection, order)
        opened(answer.forwards[0])
        if order.keep:
            return
        while (line := await connection.receive()) is not None:
            trouble(Answer.model_validate_json(line).trouble)
    raise NothingRuns("the proxy has ended, and its forwards with it")


async def forwards(state_dir: Path) -> list[Forwarded]:
    """Return what every proxy of this machine forwards.

    Raises:
        NothingRuns: no proxy answers.
    """
    return [f for path in _proxies(state_dir) for f in (await _once(path, Show())).forwards]


async def remove(state_dir: Path, port: int) -> list[Forwarded]:
    """Have nothing be forwarded from a port any more; return what was.

    Raises:
        NothingRuns: no proxy answers.
        ForwardRefused: nothing was.
    """
    refused: ForwardRefused | None = None
    for path in _proxies(state_dir):
        try:
            return list((await _once(path, Remove(port=port))).forwards)
        except ForwardRefused as exc:
            refused = exc
    raise refused or ForwardRefused(f"nothing is forwarded from port {port}")


async def _once(path: Path, order: Order) -> Answer:
    async with open_control(path, WANT) as connection:
        return await _asked(connection, order)


async def _asked(connection: ControlConnection, order: Order) -> Answer:
    await connection.send(order)
    with trio.move_on_after(ANSWER_TIMEOUT_S):
        line = await connection.receive()
        if line is None:
            raise NothingRuns("the proxy ended before it answered")
        try:
            answer = Answer.model_validate_json(line)
        except ValidationError as exc:
            raise ForwardRefused("the proxy is of another version than this command") from exc
        if answer.error:
            raise ForwardRefused(answer.error)
        return answer
    raise PeerUnreachable("the proxy does not answer in time")


def _proxy(state_dir: Path, port: int | None) -> Path:
    paths = _proxies(state_dir)
    if port is None:
        return paths[0]
    found = next((path for path in paths if path.stem == f"proxy-{port}"), None)
    if found is None:
        there = ", ".join(path.stem.removeprefix("proxy-") for path in paths)
        raise NothingRuns(f"no proxy runs here at port {port}; there are {there}")
    return found


def _proxies(state_dir: Path) -> list[Path]:
    """Return the control sockets of this machine's proxies, one at least."""
    paths = [p for p in control_sockets(state_dir) if p.stem.startswith("proxy")]
    if not paths:
        raise no_proxy(state_dir)
    return paths
