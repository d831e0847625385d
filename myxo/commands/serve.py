"""`myxo serve`: functions and applications of a Python module become services."""

import importlib
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from overlay import options
from overlay.cli import refusing


@refusing
def serve(
    place: Annotated[
        str, typer.Argument(metavar="MODULE[:NAME]", help="What is served, as Python imports it.")
    ],
    name: Annotated[
        str | None, typer.Option("--name", metavar="SERVICE", help="What the service is called.")
    ] = None,
    requires: Annotated[
        list[str] | None,
        typer.Option(
            "--requires",
            metavar="REQUIREMENT",
            help="What must be installed where it runs, such as 'flask>=3'; may be repeated.",
        ),
    ] = None,
    loop: Annotated[
        str, typer.Option("--loop", help="asyncio or trio: what asynchronous code runs under.")
    ] = "asyncio",
    concurrency: Annotated[
        int | None,
        typer.Option("--concurrency", min=1, metavar="N", help="Requests at once, an instance."),
    ] = None,
    image: Annotated[
        str | None,
        typer.Option(
            "--image",
            metavar="NAME",
            help="An image whose containers run it; without, processes of the machines' users.",
        ),
    ] = None,
    bootstrap: options.Bootstraps = None,
    psk: options.Psk = None,
) -> None:
    """Make a function, or an ASGI or WSGI application, a service that machines start on demand.

    Without :NAME it is everything that the module has made one by @myxo.service.

    \b
    Examples:
      myxo serve shop:app --requires 'flask>=3'
      myxo serve sums:double --name doubles
      myxo serve sums --image myxo-worker
    """
    sys.path.insert(0, str(Path.cwd()))
    module, _, attribute = place.partition(":")
    services = _services(module, attribute, name, requires or [], loop, image, concurrency)
    environment = dict(os.environ)
    if bootstrap:
        environment["P2P_BOOTSTRAPS"] = " ".join(bootstrap)
    if psk:
        environment["P2P_PSK"] = psk
    for service in services:
        service.register(environment)
        needs = f", needs {', '.join(service.requires)}" if service.requires else ""
        typer.echo(f"serving {service.name}{needs}")


def _services(
    module: str,
    attribute: str,
    name: str | None,
    requires: list[str],
    loop: str,
    image: str | None,
    concurrency: int | None,
) -> list[Any]:
    # Imported here: no other command needs it.
    from myxo.serving.errors import NotFound  # noqa: PLC0415
    from myxo.serving.program import Program, find, own_sources  # noqa: PLC0415
    from myxo.serving.service import Service, loop_of  # noqa: PLC0415

    definition = {} if concurrency is None else {"concurrency": concurrency}
    sources = None

    def placed(found: Any, attribute: str) -> Service[..., Any]:
        nonlocal sources
        sources = own_sources(module) if sources is None else sources
        its = found if isinstance(found, Service) else None
        return Service(
            found if its is None else its.target,
            name=name or (module.rpartition(".")[2].replace("_", "-") if its is None else its.name),
            requires=[*(its.requires if its is not None else ()), *requires],
            loop=loop_of(loop if its is None else its.loop),
            image=image or (None if its is None else its.image),
            definition={**(its.definition if its is not None else {}), **definition},
            program=Program(f"{module}:{attribute}", sources),
        )

    if attribute:
        return [placed(find(module, attribute), attribute)]
    try:
        marked = {
            at: one
            for at, one in vars(importlib.import_module(module)).items()
            if isinstance(one, Service)
        }
    except ModuleNotFoundError as exc:
        raise NotFound(f"{module} cannot be imported: {exc}") from exc
    if not marked:
        raise NotFound(
            f"{module} has nothing with @myxo.service; name what is served: {module}:NAME"
        )
    return [placed(one, at) for at, one in marked.items()]
