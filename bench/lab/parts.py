"""The lab's sub-commands by name: each brings libraries that the others do not need."""

import importlib
from collections.abc import Callable
from typing import Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from overlay.cli import CONTEXT

PARTS = {
    "host": "bench.lab.hosts.cli:host",
    "shell": "bench.lab.shell.cli:shell",
    "app": "bench.lab.hosts.cli:app_app",
    "net": "bench.netlab.cli:net_app",
    "load": "bench.lab.loading.cli:load_app",
    "trace": "bench.lab.traces.cli:trace_app",
    "sim": "bench.lab.queueing.sim_cli:sim_app",
    "queues": "bench.lab.queueing.queues_cli:queues_app",
    "compare": "bench.lab.queueing.compare_cli:compare",
    "results": "bench.lab.queueing.queues_cli:results",
    "report": "bench.lab.reporting.cli:report",
    "experiments": "bench.lab.experiments.cli:experiments_app",
    "experimentd": "bench.lab.experiments.daemon_cli:experimentd",
    "db": "bench.lab.experiments.cli:db_app",
    "api": "bench.lab.api.cli:api",
}
"""A typer application or a function that is a command, each as `MODULE:NAME`."""

OURS = frozenset({"allocator", "bench", "bootstrap", "myxo", "overlay", "proxy", "registry"})
"""A module of these that is missing is a bug, and no extra brings it."""


class Parts(TyperGroup):
    """The group of all parts, of which only the one that is asked for is loaded."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of all, in the order in which help shows them."""
        del ctx
        return list(PARTS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return one part; where its libraries are missing, a command that says how to get them."""
        del ctx
        if cmd_name not in PARTS:
            return None
        try:
            return loaded(cmd_name)
        except ModuleNotFoundError as exc:
            return _lacking(cmd_name, _library(exc))

    def invoke(self, ctx: Any) -> Any:
        """Run the part that was asked for; say what it lacks, too, where it finds that out late."""
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as exc:
            _say_lacking(ctx.invoked_subcommand or "", _library(exc))


def loaded(name: str) -> Any:
    """Return a part as a command."""
    module, _, attribute = PARTS[name].partition(":")
    part = getattr(importlib.import_module(module), attribute)
    command = typer.main.get_command(part if isinstance(part, typer.Typer) else _alone(part))
    command.name = name
    return command


def _alone(function: Callable[..., Any]) -> typer.Typer:
    app = typer.Typer(
        context_settings=CONTEXT,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )
    app.command()(function)
    return app


def _library(missing: ModuleNotFoundError) -> str:
    """Return what an extra would bring; raise `missing` itself where it is a module of ours."""
    name = missing.name or ""
    if not name or name.partition(".")[0] in OURS:
        raise missing
    return name


def _say_lacking(name: str, library: str) -> NoReturn:
    typer.echo(
        f"myxo lab {name} needs {library}, which is not installed: pip install 'myxo[lab]'",
        err=True,
    )
    raise typer.Exit(1)


def _lacking(name: str, library: str) -> TyperCommand:
    """Return a command that says only what it needs."""
    return TyperCommand(
        name,
        callback=lambda: _say_lacking(name, library),
        help=f"Not installed: it needs {library} (pip install 'myxo[lab]').",
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    )
