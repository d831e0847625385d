"""The four functions as a program calls them, and what they know of the program."""

import json
import os
import sys
from collections.abc import AsyncIterable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from myxo.puma.configuration import PumaConfig, read_config
from myxo.puma.errors import ConfigInvalid, SourceInvalid
from myxo.puma.keys import near
from myxo.puma.source import Given, Source, source_of

if TYPE_CHECKING:
    from myxo.mapping.calls import MapCall
    from myxo.puma.start import Started

T = TypeVar("T")
R = TypeVar("R")


@dataclass
class _Program:
    """What this process has been told so far."""

    config: PumaConfig | None = None
    sources: dict[str, Source] = field(default_factory=dict)
    file: Path | None = None


_program = _Program()


def puma_config(config: str | Mapping[str, Any]) -> None:
    """Say which services there are and at which paths, and how requests get to them.

    Args:
        config: a dictionary, or JSON, with the keys of PUMA's configuration, and `port` and
            `network`. Said again, it takes the place of what was said.

    Raises:
        ConfigInvalid: a key is not known, or cannot be honoured; says which and why.
    """
    _program.config = read_config(config)


def puma_service(services: Given | Mapping[str, Given]) -> None:
    """Give the code of services. Nothing of it is run here.

    Args:
        services: for each key of `puma_services` a function without arguments, its source, or what
            `inspect.getsourcelines` returns; as a dictionary or its JSON. Or one of these alone,
            for the service that is named as the function.

    Raises:
        SourceInvalid: code cannot be used; says whose and why.
    """
    file = sys._getframe(1).f_globals.get("__file__")  # noqa: SLF001  (who calls is the program)
    program = None if file is None else Path(file).absolute()
    for key, given in _by_key(services).items():
        source = source_of(key, given, program)
        _program.sources[key or source.function] = source
    _program.file = program or _program.file


def puma_start(*, port: int | None = None) -> None:
    """Serve the services until Ctrl-C, and then end what was started.

    This machine's network is used, or the one that the configuration or `MYXO_BOOTSTRAPS` names is
    joined, or one is founded.

    Args:
        port: of localhost, where each service answers at its path; else that of the configuration,
            of `MYXO_PUMA_PORT`, or 8080.

    Raises:
        ConfigInvalid: nothing is configured, or a service lacks code, or code its service.
        MyxoError: network, registry or proxy are not to be had; says why.
    """
    config = _complete(_program)
    # Slow to import, and a program that only maps needs none of it.
    from myxo.mapping.owner import owner  # noqa: PLC0415
    from myxo.puma.interruption import run_until_interrupted  # noqa: PLC0415
    from myxo.puma.settings import PumaSettings  # noqa: PLC0415
    from myxo.puma.specs import name_of, spec_of  # noqa: PLC0415
    from myxo.puma.start import start  # noqa: PLC0415

    settings = PumaSettings.load(
        {
            "port": port or config.port,
            "bootstraps": config.network.bootstraps,
            "psk": config.network.psk,
        }
    )
    me = owner().peer_id
    names = {key: name_of(key, _program.file, me) for key in config.puma_services}
    specs = {names[key]: spec_of(key, _program.sources[key], config) for key in config.coded}
    run_until_interrupted(
        partial(start, config, names, specs, settings, partial(_print_started, config))
    )


def puma_map(
    function: Callable[[T], R], data: Iterable[T] | AsyncIterable[T], **settings: Any
) -> "MapCall[T, R]":
    """Compute `[function(item) for item in data]` on the machines of the network.

    `await` it for the list, under asyncio and trio; `myxo.map_sync` is for plain code.

    Args:
        function: of one argument.
        data: the items.
        settings: as of `myxo.map`.
    """
    from myxo.mapping.calls import map as mapped  # noqa: PLC0415

    if "proxy" not in settings and "PROXY_PORT" in os.environ:  # in a service, by its own proxy
        where = f"{os.environ.get('PROXY_IP', '127.0.0.1')}:{os.environ['PROXY_PORT']}"
        settings["proxy"] = where
    return mapped(function, data, **settings)


def _by_key(services: Given | Mapping[str, Given]) -> Mapping[str, Given]:
    """Return what was given by the keys of services; what is for one alone has the key ""."""
    if isinstance(services, str) and services.lstrip().startswith("{"):
        try:
            services = json.loads(services)
        except ValueError as exc:
            raise SourceInvalid(f"puma_service was given no JSON: {exc}") from exc
    return services if isinstance(services, Mapping) else {"": services}


def _complete(program: _Program) -> PumaConfig:
    """Return the configuration if it and the code belong together.

    Raises:
        ConfigInvalid: they do not; says what is missing.
    """
    config = program.config
    if config is None:
        raise ConfigInvalid("call puma_config before puma_start, with puma_services")
    for key in program.sources:
        if key not in config.coded:
            known = near(key, list(config.coded))
            raise ConfigInvalid(f"puma_service has code for {key}, which has no path; {known}")
    for key in config.coded:
        if key not in program.sources:
            path = config.puma_services[key]
            raise ConfigInvalid(
                f"{key} is to answer at {path}, and puma_service has no code for it"
            )
    return config


def _print_started(config: PumaConfig, started: "Started") -> None:
    write = sys.stdout.write
    for key, path in config.puma_services.items():
        write(f"http://localhost:{started.port}{path}  {key}\n")
    if started.own and (join := _join_line(started)):
        write(f"on the next machine:  {join}\n")
    write("Ctrl-C ends them\n")
    sys.stdout.flush()


def _join_line(started: "Started") -> str:
    from myxo.network import join_command  # noqa: PLC0415

    return join_command(started.part)
