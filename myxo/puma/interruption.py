"""Runs what a program waits for until Ctrl-C, and raises what a person can act on by itself."""

from collections.abc import Awaitable, Callable

import trio

from overlay.cli import until_signal
from overlay.errors import alone
from overlay.logs import configure_logs


def run_until_interrupted(main: Callable[[], Awaitable[None]]) -> None:
    """Run `main` under trio until it ends, or SIGINT or SIGTERM does.

    Raises:
        Exception: what `main` raised, out of the groups that nurseries have put it into.
    """
    configure_logs("warning")
    try:
        trio.run(until_signal, main, restrict_keyboard_interrupt_to_checkpoints=True)
    except BaseExceptionGroup as group:
        raise alone(group) from None
