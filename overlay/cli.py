"""What all command lines share: dashes, help, version, exit codes.

Long flags work with one dash or two (`-bootstrap`, `--bootstrap`), `-h` is `--help` everywhere.
Exit codes: 0 done, 1 failed, 2 wrong usage or settings.
"""

import functools
import gc
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from importlib.metadata import version
from typing import Any

import trio
import typer

from overlay.errors import MyxoError, SettingsInvalid
from overlay.logs import configure_logs
from overlay.notify import notify_status

OK, FAILED, USAGE = 0, 1, 2

SUPERVISED = "MYXO_SUPERVISED"
"""Set by `myxo up` and `myxo join` in the daemons that they start, whose standard input they hold
open for as long as they live."""

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


def new_app(help_text: str, **options: Any) -> typer.Typer:
    """Return a typer application with the settings that all commands share."""
    return typer.Typer(
        help=help_text,
        context_settings=CONTEXT,
        no_args_is_help=options.pop("no_args_is_help", False),
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        **options,
    )


def run_app(app: typer.Typer, name: str, arguments: Sequence[str] | None = None) -> None:
    """Run `app` on the process's arguments, with one-dash long flags made two-dash ones."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    app(args=with_two_dashes(given), prog_name=name)


def with_two_dashes(arguments: Sequence[str]) -> list[str]:
    """Return `arguments` with `-name` written `--name`, up to a bare `--`.

    One letter after the dash is a short flag and stays; so does a negative number.
    """
    changed: list[str] = []
    for position, argument in enumerate(arguments):
        if argument == "--":
            return changed + list(arguments[position:])
        name = argument[1:].split("=", 1)[0]
        long_flag = argument.startswith("-") and len(name) > 1 and name[0].isalpha()
        changed.append("-" + argument if long_flag else argument)
    return changed


def print_version(value: bool) -> None:
    """Print the version and stop, as the callback of `--version`."""
    if value:
        typer.echo(f"myxo {version('myxo')}")
        raise typer.Exit


YOUNG_OBJECTS = 10_000
"""Containers that come to be between two collections. Those of 32 requests under way are more
than the 700 of Python's default, which would look through them again and again, for nothing: a
request leaves no cycle behind."""


def run_daemon(
    main: Callable[[], Awaitable[None]], *, log_level: str, daemon: str | None = None
) -> None:
    """Run `main` under trio until it ends, or is cancelled by SIGINT or SIGTERM; exit rightly.

    Errors that a person can act on become one line on stderr; a bug keeps its traceback.
    """
    configure_logs(log_level, daemon=daemon)
    gc.freeze()  # else each full collection walks 115,000 imported objects: a pause of 60 to 200 ms
    gc.set_threshold(YOUNG_OBJECTS, 20, 20)
    try:
        trio.run(until_signal, main, restrict_keyboard_interrupt_to_checkpoints=True)
    except BaseException as exc:  # noqa: BLE001  (refuse raises again what it does not know)
        refuse(exc)


async def until_signal(main: Callable[[], Awaitable[None]]) -> None:
    """Run `main` until it ends, or is cancelled by SIGINT or SIGTERM."""
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:

            async def watch() -> None:
                async for _ in signals:
                    nursery.cancel_scope.cancel()

            nursery.start_soon(watch)
            if os.environ.get(SUPERVISED):
                nursery.start_soon(_end_with_supervisor, nursery.cancel_scope)
            await main()
            nursery.cancel_scope.cancel()


async def _end_with_supervisor(scope: trio.CancelScope) -> None:
    """Stop when standard input ends: its other end is the supervisor's, however that one ends.

    prctl(PR_SET_PDEATHSIG) would not do: it watches the thread that started this process, and
    trio starts processes from threads that end when they have been idle for a while.
    """
    async with trio.lowlevel.FdStream(os.dup(sys.stdin.fileno())) as stdin:
        while await stdin.receive_some():
            pass
    scope.cancel()


def refuse(exc: BaseException) -> None:
    """Print what a person can act on and exit, or raise what is a bug."""
    leaves = list(_leaves(exc))
    if all(isinstance(leaf, KeyboardInterrupt) for leaf in leaves):
        raise typer.Exit(OK) from None
    if not all(isinstance(leaf, MyxoError) for leaf in leaves):
        raise exc
    texts = list(dict.fromkeys(str(leaf) for leaf in leaves))
    for text in texts:
        typer.echo(f"error: {text}", err=True)
    notify_status("; ".join(texts))  # for whoever supervises this process: `myxo up`, or systemd
    usage = all(isinstance(leaf, SettingsInvalid) for leaf in leaves)
    raise typer.Exit(USAGE if usage else FAILED) from None


def _leaves(exc: BaseException) -> Iterator[BaseException]:
    if not isinstance(exc, BaseExceptionGroup):
        yield exc
        return
    for inner in exc.exceptions:
        yield from _leaves(inner)


def refusing(command: Callable[..., None]) -> Callable[..., None]:
    """Decorate a command so that errors for a person end it with one line and the right code."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except MyxoError as exc:
            refuse(exc)

    return wrapped
