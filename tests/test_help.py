"""Every command explains itself with an example, and takes its flags as people write them."""

from collections.abc import Iterator
from typing import Any

import pytest
import typer
from typer.core import TyperGroup
from typer.testing import CliRunner

import allocator.cli
import bench.lab.cli
import bootstrap.cli
import myxo.cli
import proxy.cli
import registry.cli
from overlay.cli import with_two_dashes

APPS = {
    "bootstrap": bootstrap.cli.app,
    "allocator": allocator.cli.app,
    "registry-service": registry.cli.service_app,
    "registry-cli": registry.cli.cli_app,
    "proxy": proxy.cli.app,
    "myxo": myxo.cli.app,
    "myxo lab": bench.lab.cli.app,
}


def _walk(path: tuple[str, ...], command: Any) -> Iterator[tuple[str, ...]]:
    yield path
    for name, inner in _inner(command).items():
        yield from _walk((*path, name), inner)


def _inner(command: Any) -> dict[str, Any]:
    """Return a group's commands by name, also of one that loads each when it is asked for."""
    if not isinstance(command, TyperGroup):
        return {}
    context = typer.Context(command)
    return {name: command.get_command(context, name) for name in command.list_commands(context)}


COMMANDS = [
    path for name, app in APPS.items() for path in _walk((name,), typer.main.get_command(app))
]


def _run(path: tuple[str, ...], *flags: str) -> str:
    """Return what the command prints, given one-dash flags as its `main` makes them."""
    arguments = with_two_dashes([*path[1:], *flags])
    result = CliRunner().invoke(APPS[path[0]], arguments, prog_name=path[0])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_a_command_shows_an_example_of_itself(path: tuple[str, ...]) -> None:
    text = _run(path, "--help")
    assert "Example" in text
    examples = text.partition("Example")[2].partition("Options:")[0]
    assert " ".join(path) in " ".join(examples.split())


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help_is_the_same_however_it_is_asked_for(path: tuple[str, ...]) -> None:
    text = _run(path, "--help")
    assert _run(path, "-h") == _run(path, "-help") == text


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_each_flag_and_argument_is_explained(path: tuple[str, ...]) -> None:
    command: Any = typer.main.get_command(APPS[path[0]])
    for name in path[1:]:
        command = _inner(command)[name]
    silent = [p.name for p in command.params if not getattr(p, "help", None)]
    assert silent == []


@pytest.mark.parametrize("name", APPS)
def test_a_program_tells_its_version(name: str) -> None:
    assert _run((name,), "--version").startswith("myxo ")
    assert _run((name,), "-version").startswith("myxo ")
