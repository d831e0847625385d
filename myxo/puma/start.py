"""From a program's services to a network that serves them: join or found it, register, serve.

this machine's network, if it is in one ─► else the one that is named ─► else a new one
    └─► services in the registry ─► the front at its port ─► until Ctrl-C, and back again
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

from myxo.network import Part, founding, is_in_network, is_running, joining, running
from myxo.puma.configuration import PumaConfig
from myxo.puma.front import serving
from myxo.puma.registration import registered, with_image
from myxo.puma.settings import PumaSettings
from overlay.names import ServiceName
from overlay.notify import notify
from overlay.settings import SYSTEM_STATE_DIR, read_joined_network
from overlay.spec import ServiceSpec
from registry.settings import CliSettings


@dataclass(frozen=True, slots=True)
class Started:
    """What runs.

    Attributes:
        port: of localhost, where the services answer.
        part: of this machine in its network.
        own: whether the part was started by this program.
    """

    port: int
    part: Part
    own: bool


async def start(
    config: PumaConfig,
    names: Mapping[str, ServiceName],
    specs: Mapping[ServiceName, ServiceSpec],
    settings: PumaSettings,
    ready: Callable[[Started], None],
) -> None:
    """Serve a program's services until cancelled; then all that was started is ended.

    Raises:
        MyxoError: it cannot be done; says why.
    """
    pictured = await with_image(specs, config.image)
    runtime = settings.runtime or ("process" if config.image is None else "auto")
    async with in_network(settings, runtime) as (part, own):
        client = CliSettings.load(
            {
                "bootstraps": part.bootstraps,
                "psk": part.psk,
                "state_dir": part.state_dir,
                "admin": part.admin,
            }
        )
        async with (
            registered(pictured, client),
            serving(config, names, part, settings.port),
        ):
            ready(Started(settings.port, part, own))
            notify("READY=1")
            await trio.sleep_forever()


@asynccontextmanager
async def in_network(settings: PumaSettings, runtime: str) -> AsyncIterator[tuple[Part, bool]]:
    """Be in a network for the length of a block; yield this machine's part, and if it is started.

    Args:
        settings: where the network is.
        runtime: of the allocator, where that is started.

    Raises:
        MyxoError: a daemon does not start, or nothing answers where the network is said to be.
    """
    existing = _existing(settings)
    if existing is not None:
        yield existing, False
        return
    part = _part(settings, runtime)
    async with running(part):
        yield part, True


def _existing(settings: PumaSettings) -> Part | None:
    """Return the part that runs already, if one does."""
    for directory in (settings.state_dir, SYSTEM_STATE_DIR):
        if is_in_network(directory) and (joined := read_joined_network(directory)):
            return _running_part(
                settings, joined["bootstraps"], joined.get("psk"), joined.get("admin")
            )
    if settings.bootstraps and is_running(settings.state_dir):  # daemons that were started singly
        return _running_part(settings, settings.bootstraps, settings.psk, settings.admin)
    return None


def _running_part(
    settings: PumaSettings, bootstraps: Sequence[str], psk: str | None, admin: str | None
) -> Part:
    return Part(
        bootstraps=tuple(bootstraps),
        psk=psk,
        admin=admin,
        daemons=(),
        state_dir=settings.state_dir,
        proxy_port=settings.proxy_port,
    )


def _part(settings: PumaSettings, runtime: str) -> Part:
    flags = ["--runtime", runtime]
    if settings.bootstraps:
        return joining(
            settings.bootstraps,
            state_dir=settings.state_dir,
            psk=settings.psk,
            admin=settings.admin,
            proxy_port=settings.proxy_port,
            hostname=settings.hostname or None,
            log_level="warning",
            allocator_flags=flags,
        )
    return founding(
        state_dir=settings.state_dir,
        psk=settings.psk,
        open_to_all=False,
        p2p_listen_addr=settings.p2p_listen_addr,
        proxy_port=settings.proxy_port,
        hostname=settings.hostname or None,
        log_level="warning",
        allocator_flags=flags,
        registry_flags=[],
    )
