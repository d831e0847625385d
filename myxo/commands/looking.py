"""`myxo status`, `rtt`, `why` and `watch`: what this machine knows, and why it did what it did."""

import json
from typing import Annotated

import trio
import typer

from myxo import distances
from myxo.status import print_status, read_status
from myxo.watching import print_changes
from myxo.why import as_text, read_why
from overlay import options
from overlay.cli import refusing
from overlay.settings import chosen_state_dir


@refusing
def status(
    state_dir: options.StateDir = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show peers, services, instances and RTTs as this machine sees them.

    \b
    Example: myxo status
    """
    print_status(trio.run(read_status, chosen_state_dir(state_dir)), as_json=as_json)


@refusing
def rtt(
    one: Annotated[str, typer.Argument(metavar="A", help="A host's name or a peer id.")],
    other: Annotated[
        str | None, typer.Argument(metavar="[B]", help="Another; this machine if left out.")
    ] = None,
    state_dir: options.StateDir = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, in seconds.")] = False,
) -> None:
    """Show the RTT between two machines: as one of them measured it, and as estimated.

    The estimate needs no probe between the two; its error is stated with it.

    \b
    Example: myxo rtt edge-1 edge-2
    """
    directory = chosen_state_dir(state_dir)
    found = trio.run(distances.read_rtt, directory, one, other)
    typer.echo(json.dumps(found) if as_json else distances.as_text(found))


@refusing
def why(
    about: Annotated[
        str,
        typer.Argument(
            metavar="[REQUEST_ID | SERVICE]", help="All of the last requests if left out."
        ),
    ] = "",
    state_dir: options.StateDir = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, in seconds.")] = False,
) -> None:
    """Show how this machine's proxy decided a request, and what it would decide now.

    Which instances and machines there were, what each would have cost, what was refused and why,
    what was chosen, and where the time went. A request has the id that it came with as
    X-Request-Id, or one that its answer tells if it asks for it with X-Myxo-Explain: 1.

    \b
    Examples:
      myxo why                       the last requests, a line each
      myxo why hello-world-server    its last requests, and what would happen now
    """
    directory = chosen_state_dir(state_dir)
    answers = trio.run(read_why, directory, about)
    typer.echo(json.dumps(answers) if as_json else as_text(answers, about))


@refusing
def watch(
    state_dir: options.StateDir = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")] = False,
) -> None:
    """Show each change of a member's or an instance's state as this machine learns it.

    \b
    Example: myxo watch --json
    """
    directory = chosen_state_dir(state_dir)
    trio.run(print_changes, directory, as_json)
