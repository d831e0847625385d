"""`myxo forward`: local ports that lead to services."""

import functools
import sys
from typing import Annotated

import trio
import typer

from myxo import forward as forwarding
from overlay import options
from overlay.cli import refusing
from overlay.settings import (
    chosen_state_dir,
)
from proxy.layer4.forward_orders import Forwarded


@refusing
def forward(
    to: Annotated[
        str,
        typer.Argument(metavar="[SERVICE | CHAIN]", help="Where the port leads to."),
    ] = "",
    port: Annotated[
        int,
        typer.Argument(
            metavar="[LOCALPORT]",
            help="The local port; any free one if left out.",
            min=0,
            max=65535,
        ),
    ] = 0,
    host: Annotated[
        str, typer.Option("--host", metavar="IP", help="Listen there instead of on loopback.")
    ] = "127.0.0.1",
    keep: Annotated[
        bool, typer.Option("--keep", help="Return, and go on until removed or the proxy ends.")
    ] = False,
    show: Annotated[bool, typer.Option("--list", help="Show what is forwarded.")] = False,
    remove: Annotated[
        int | None, typer.Option("--remove", metavar="PORT", help="Forward PORT no more.")
    ] = None,
    proxy_port: Annotated[
        int | None,
        typer.Option("--proxy-port", metavar="PORT", help="Which of this machine's proxies."),
    ] = None,
    state_dir: options.StateDir = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Open a local port that leads to a service, or to a chain of them, until Ctrl-C.

    Each connection, or each client's datagrams, go to the nearest instance with room; if there is
    none, one is started. They are carried as they are, whatever protocol they speak.

    \b
    Examples:
      myxo forward postgres 5432          then: psql -h 127.0.0.1
      myxo forward postgres 5432 --keep   the same, without a terminal
      myxo forward tcp/decode/udp/filter/mix 7000
                                          what decode says goes to filter, and so on
      myxo forward --list
      myxo forward --remove 5432
    """
    directory = chosen_state_dir(state_dir)
    if remove is not None:
        shown = trio.run(forwarding.remove, directory, remove)
    elif show:
        shown = trio.run(forwarding.forwards, directory)
    else:
        order = forwarding.order(to, host, port, keep=keep)
        echo = functools.partial(_print_forward, as_json=as_json)
        warn = functools.partial(typer.echo, err=True)
        trio.run(forwarding.forward, directory, order, proxy_port, echo, warn)
        return
    for one in shown:
        _print_forward(one, as_json=as_json)


def _print_forward(forward: Forwarded, *, as_json: bool) -> None:
    text = f"{forward.listen} -> {forward.to}"
    typer.echo(forward.model_dump_json() if as_json else text)
    sys.stdout.flush()
