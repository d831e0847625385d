"""Tells the network what the worker service is: a program of its own, which a map starts once.

Joining a network takes a second of imports alone, and logs; a program that maps is to have neither.
"""

import sys
from functools import partial

from myxo.mapping.owner import owner
from overlay import options
from overlay.cli import run_daemon
from overlay.errors import SettingsInvalid
from overlay.names import ServiceName, service_name
from overlay.spec import ServiceSpec
from registry.client import next_revision, open_client
from registry.docker import Engine
from registry.image import stock_image
from registry.settings import CliSettings


def main() -> None:
    """Register the service that is named, as the spec on standard input has it.

    A further argument is the name of the image that it runs from, if it does.
    """
    name, image = service_name(sys.argv[1]), next(iter(sys.argv[2:]), None)
    spec = ServiceSpec.model_validate_json(sys.stdin.read())
    run_daemon(partial(_register, name, spec, image), log_level="error")


async def _register(name: ServiceName, spec: ServiceSpec, image: str | None) -> None:
    settings = CliSettings.load({})
    if not settings.bootstraps:
        raise SettingsInvalid(options.NO_BOOTSTRAP)
    if image is not None:
        found, _ = await stock_image(Engine(), image, lambda _: None)
        spec = spec.model_copy(update={"image": found})
    async with open_client(settings) as registry:
        newest = await registry.get(name)
        if newest is None or newest.revision.spec != spec:
            await registry.add(next_revision(owner(), name, newest, spec))


if __name__ == "__main__":
    main()
