"""The service whose instances compute maps: what it is, and that the network knows it.

It is a service as any other, so it is started on demand, near and where there is room, and paused
and removed when nobody maps. Each owner has one of their own: it is signed with their key, and runs
only where the machine's operator lets that owner run code.
"""

import hashlib
import sys
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

import trio

from myxo.mapping.errors import NoWorkers
from myxo.mapping.lane import Lane, open_lane
from myxo.mapping.owner import owner
from myxo.services.proxy_address import ProxyAddress
from overlay.identity import Identity
from overlay.names import ServiceName, service_name
from overlay.spec import ServiceSpec

COMMAND = 'exec "$SERVICE_PYTHON" -m myxo.mapping.worker'
"""By the interpreter of the machine's own allocator, which has what a worker needs."""

REGISTERING = "myxo.mapping.registering"

CORE_MILLICORES = 1000


@dataclass(frozen=True, slots=True)
class Workers:
    """Where workers are had.

    Attributes:
        proxy: that is asked.
        service: which they are instances of.
        spec: what the service is.
    """

    proxy: ProxyAddress
    service: ServiceName
    spec: ServiceSpec

    def lane(self) -> AbstractAsyncContextManager[Lane]:
        """Open a lane to a worker. Raises what `open_lane` raises."""
        return open_lane(self.proxy, self.service)

    async def register(self) -> None:
        """Tell the network what the service is.

        Raises:
            NoWorkers: no registry takes it.
        """
        command = [sys.executable, "-m", REGISTERING, self.service]
        said = self.spec.model_dump_json().encode()
        done = await trio.run_process(command, stdin=said, capture_stderr=True, check=False)
        if done.returncode:
            text = done.stderr.decode(errors="replace").strip()
            raise NoWorkers(f"the worker service could not be registered: {text}")


def process_workers(proxy: ProxyAddress) -> Workers:
    """Return workers that are processes of the machines' users, a core each."""
    spec = ServiceSpec(process=COMMAND, concurrency=1, cpu_millicores=CORE_MILLICORES)
    return owned(proxy, "map", spec)


def owned(proxy: ProxyAddress, prefix: str, spec: ServiceSpec) -> Workers:
    """Return the instances of a service that is this user's own, under a name that begins so."""
    return Workers(proxy, _name(prefix, owner(), spec), spec)


def _name(prefix: str, its_owner: Identity, spec: ServiceSpec) -> ServiceName:
    """Return a name that is one owner's, and this spec's."""
    said = f"{its_owner.peer_id} {spec.model_dump_json()}"
    return service_name(f"{prefix}-{hashlib.sha256(said.encode()).hexdigest()[:10]}")
