"""`myxo lab experimentd`, `myxo lab experiments …` and `myxo lab db …`."""

import json
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import trio
import typer

from bench.lab.errors import BadInput, LabError
from bench.lab.experiments.status import ENDED, Status
from overlay import options
from overlay.cli import new_app, refuse, refusing
from overlay.settings import chosen_state_dir

if TYPE_CHECKING:  # they take a second to import, and `--help` needs none of it
    from bench.lab.experiments.experiments import Experiments

_HELP = """Submit experiments, look at them, and take their data with you.

Examples:

\b
  myxo lab experiments submit experiment.json
  myxo lab experiments list
  myxo lab experiments compare 202611291200-ab3d 202611291230-x9k1
  myxo lab experiments export 202611291200-ab3d --format parquet -o data
"""

_DB_HELP = """A database of one's own for experiments, where SQLite does not do.

Examples:

\b
  eval $(myxo lab db up)
  myxo lab db down
"""

LOOK_S = 0.5
PATIENCE_S = 5.0
"""A daemon that has nothing else to do begins an experiment in half a second."""

WAITS_FOR = "for those before it, or for `myxo lab experimentd` to run; Ctrl-C leaves it queued"

experiments_app = new_app(_HELP, no_args_is_help=True)
db_app = new_app(_DB_HELP, no_args_is_help=True)

Database = Annotated[
    str | None,
    typer.Option(
        "--database",
        metavar="URL",
        help="Where experiments are kept, such as postgresql://USER:PASSWORD@HOST/NAME; SQLite in "
        "the state directory if neither this nor DB_TYPE says otherwise. "
        "[env: MYXO_EXPERIMENTD_DATABASE]",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
ExpId = Annotated[str, typer.Argument(metavar="ID", help="An experiment's id.")]
ExpIds = Annotated[list[str], typer.Argument(metavar="ID...", help="Experiments' ids.")]


@experiments_app.command()
@refusing
def submit(
    file: Annotated[str, typer.Argument(metavar="FILE|-", help="A JSON file; - is stdin.")],
    wait: Annotated[
        bool, typer.Option("--wait", help="Return when it has ended, with 1 if it failed.")
    ] = False,
    database: Database = None,
) -> None:
    """Queue an experiment, and print its id.

    \b
    Example: myxo lab experiments submit experiment.json
    """
    body = _read(file)

    async def command(experiments: "Experiments") -> None:
        exp_id = (await experiments.submit(body)).exp_id
        typer.echo(exp_id)
        if wait:
            await _wait(experiments, exp_id)

    _run(database, command)


@experiments_app.command("list")
@refusing
def list_experiments(as_json: Json = False, database: Database = None) -> None:
    """List all experiments, the oldest first.

    \b
    Example: myxo lab experiments list --json
    """

    async def command(experiments: "Experiments") -> None:
        from bench.lab.experiments import showing  # noqa: PLC0415

        found = await experiments.list()
        if as_json:
            _print_json([showing.as_json(experiment) for experiment in found])
        elif found:
            typer.echo(showing.table_of(found))
        else:
            typer.echo("no experiments yet; `myxo lab experiments submit --help`", err=True)

    _run(database, command)


@experiments_app.command()
@refusing
def show(exp_id: ExpId, as_json: Json = False, database: Database = None) -> None:
    """Show what an experiment was to do, and what came of it.

    \b
    Example: myxo lab experiments show 202611291200-ab3d
    """

    async def command(experiments: "Experiments") -> None:
        from bench.lab.experiments import showing  # noqa: PLC0415

        account = await experiments.show(exp_id)
        if as_json:
            _print_json(showing.as_json(account))
        else:
            typer.echo(showing.account_of(account))

    _run(database, command)


@experiments_app.command()
@refusing
def compare(exp_ids: ExpIds, as_json: Json = False, database: Database = None) -> None:
    """Show the figures of several experiments below each other.

    \b
    Example: myxo lab experiments compare 202611291200-ab3d 202611291230-x9k1
    """

    async def command(experiments: "Experiments") -> None:
        from bench.lab.experiments import showing  # noqa: PLC0415

        accounts = await experiments.compare(exp_ids)
        if as_json:
            _print_json([showing.as_json(account) for account in accounts])
        else:
            typer.echo(showing.comparison_of(accounts))

    _run(database, command)


@experiments_app.command()
@refusing
def cancel(exp_id: ExpId, database: Database = None) -> None:
    """Cancel an experiment that waits or runs; what it has recorded is kept.

    \b
    Example: myxo lab experiments cancel 202611291200-ab3d
    """

    async def command(experiments: "Experiments") -> None:
        done = await experiments.cancel(exp_id)
        typer.echo(f"{exp_id} is cancelled" if done else f"{exp_id} runs, and is being cancelled")

    _run(database, command)


@experiments_app.command()
@refusing
def delete(exp_ids: ExpIds, database: Database = None) -> None:
    """Delete experiments with everything that was recorded of them.

    \b
    Example: myxo lab experiments delete 202611291200-ab3d
    """

    async def command(experiments: "Experiments") -> None:
        for exp_id in exp_ids:
            await experiments.delete(exp_id)
            typer.echo(f"deleted {exp_id}")

    _run(database, command)


@experiments_app.command()
@refusing
def export(
    exp_id: ExpId,
    form: Annotated[
        str, typer.Option("--format", metavar="csv|parquet", help="How tables are written.")
    ] = "csv",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="Where to; a folder called as its id."),
    ] = None,
    database: Database = None,
) -> None:
    """Write an experiment's tables into a folder, and print the files.

    \b
    Example: myxo lab experiments export 202611291200-ab3d --format parquet -o data
    """

    async def command(experiments: "Experiments") -> None:
        for path in await experiments.export(exp_id, _format(form), output or Path(exp_id)):
            typer.echo(path)

    _run(database, command)


@db_app.command()
@refusing
def up(
    port: Annotated[
        int | None,
        typer.Option("--port", min=1, max=65535, help="On 127.0.0.1. [default: 3307]"),
    ] = None,
    state_dir: options.StateDir = None,
) -> None:
    """Start a MariaDB, unless it runs, and print the variables by which it is found.

    \b
    Example: eval $(myxo lab db up)
    """
    from bench.lab.experiments import mariadb  # noqa: PLC0415

    database = mariadb.start(_folder(state_dir), port or mariadb.DEFAULT_PORT)
    for name, value in database.exports().items():
        typer.echo(f"export {name}={value}")


@db_app.command()
@refusing
def down(state_dir: options.StateDir = None) -> None:
    """Stop that MariaDB; its data stay.

    \b
    Example: myxo lab db down
    """
    from bench.lab.experiments import mariadb  # noqa: PLC0415

    ran = mariadb.stop(_folder(state_dir))
    typer.echo("stopped" if ran else "no MariaDB of `myxo lab db up` runs here")


def _folder(state_dir: Path | None) -> Path:
    return chosen_state_dir(state_dir) / "mariadb"


def _run(database: str | None, command: Callable[["Experiments"], Awaitable[None]]) -> None:
    from bench.lab.experiments.experiments import Experiments  # noqa: PLC0415
    from bench.lab.experiments.settings import chosen_database  # noqa: PLC0415
    from bench.lab.experiments.store import open_store  # noqa: PLC0415

    async def main() -> None:
        async with open_store(chosen_database(database)) as store:
            await command(Experiments(store))

    try:
        trio.run(main)
    except BaseExceptionGroup as exc:
        refuse(exc)


async def _wait(experiments: "Experiments", exp_id: str) -> None:
    """Return when an experiment has finished; say on stderr when it begins, or does not.

    Raises:
        LabError: it ended otherwise.
    """
    last, waited_s = Status.QUEUED, 0.0
    while (experiment := await experiments.get(exp_id)).status not in ENDED:
        if experiment.status is not last:
            typer.echo(f"{exp_id} runs", err=True)
        elif last is Status.QUEUED and waited_s == PATIENCE_S:
            typer.echo(f"{exp_id} still waits {WAITS_FOR}", err=True)
        last = experiment.status
        await trio.sleep(LOOK_S)
        waited_s += LOOK_S
    if experiment.status is not Status.FINISHED:
        raise LabError(f"experiment {exp_id} is {experiment.status} {experiment.error}".rstrip())


def _read(file: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as exc:
        raise BadInput(f"{file} cannot be read: {exc.strerror}") from exc


def _format(text: str) -> Any:
    from bench.lab.experiments.export import Format  # noqa: PLC0415

    try:
        return Format(text)
    except ValueError as exc:
        raise BadInput(f"--format {text}: use csv or parquet") from exc


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))
