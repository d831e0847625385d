"""The service whose instances compute maps: what it is, and that the network knows it.

It is a service as any other, so it is started on demand, near and where there is room, and paused
and removed when nobody maps. Each owner has one of their own: it is signed with their key, and runs
only where the machine's operator lets that owner run code.
"""

import hashlib
import sys
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache

import trio
from pydantic import ValidationError

from myxo.mapping.errors import NoWorkers
from myxo.mapping.lane import Lane, open_lane
from myxo.mapping.owner import owner
from myxo.services.proxy_address import ProxyAddress
from overlay.identity import Identity
from overlay.names import PeerId, ServiceName, service_name
from overlay.spec import ServiceSpec

COMMAND = 'exec "$SERVICE_PYTHON" -m myxo.mapping.worker'
"""By the interpreter of the machine's own allocator, which has what a worker needs."""

IMAGE_COMMAND = "MYXO_WORKER_HOST=0.0.0.0 exec python3 -m myxo.mapping.worker"
"""By the image's own; what is listened on in a container is reached from its machine alone."""

REGISTERING = "myxo.mapping.registering"

CORE_MILLICORES = 1000

CONTAINER_MIB = 1024
"""What a container may have; it is killed at more."""

KEPT = 16
"""Of what was found out for an earlier map: it takes as long as some thousand small items do."""

RESOURCES = ("cpu_millicores", "memory_mib")
"""What a map may say that a worker needs, as in a definition."""

PREEMPT_GRACE_S = 10.0
"""For the item that a worker is at when another service needs its core; a longer one begins again
elsewhere."""


@dataclass(frozen=True, slots=True)
class Workers:
    """Where workers are had.

    Attributes:
        proxy: that is asked.
        service: which they are instances of.
        spec: what the service is, less its image; None of one that is somebody else's to register.
        image: that its containers run from, by name; None where workers are processes.
    """

    proxy: ProxyAddress
    service: ServiceName
    spec: ServiceSpec | None
    image: str | None = None

    def lane(self) -> AbstractAsyncContextManager[Lane]:
        """Open a lane to a worker. Raises what `open_lane` raises."""
        return open_lane(self.proxy, self.service)

    async def register(self) -> None:
        """Tell the network what the service is.

        Raises:
            NoWorkers: no registry takes it, or it is not this map's to register.
        """
        if self.spec is None:
            raise NoWorkers(
                f"no service is called {self.service}; without `service` a map has workers of its "
                "own"
            )
        image = [] if self.image is None else [self.image]
        command = [sys.executable, "-m", REGISTERING, self.service, *image]
        said = self.spec.model_dump_json().encode()
        done = await trio.run_process(command, stdin=said, capture_stderr=True, check=False)
        if done.returncode:
            text = done.stderr.decode(errors="replace").strip()
            raise NoWorkers(f"the worker service could not be registered: {text}")


def workers_of(
    proxy: ProxyAddress,
    *,
    image: str | None = None,
    service: str | None = None,
    resources: Mapping[str, int] | None = None,
) -> Workers:
    """Return where a map has its workers.

    Args:
        proxy: that is asked.
        image: that they are containers of; None for processes.
        service: that they are instances of, if it is there already.
        resources: what one needs, by the names in `RESOURCES`.

    Raises:
        InvalidName: `service` is no name.
        ValueError: a resource is none, or what a service needs is said beside its name.
    """
    if service is None:
        workers = container_workers(proxy, image) if image else process_workers(proxy)
        return workers if resources is None else _needing(workers, resources)
    if image is not None or resources is not None:
        raise ValueError(f"image and resources of {service!r} are in its definition")
    return Workers(proxy, service_name(service), None)


def _needing(workers: Workers, resources: Mapping[str, int]) -> Workers:
    """Return the same workers with these needs, which are another service."""
    for name in resources:
        if name not in RESOURCES:
            near = get_close_matches(str(name), RESOURCES, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"resources has {name!r}; there is {' and '.join(RESOURCES)}{hint}")
    spec = (workers.spec or ServiceSpec()).model_dump() | dict(resources)
    try:
        checked = ServiceSpec.model_validate(spec)
    except ValidationError as exc:
        fault = exc.errors()[0]
        said = {name: resources.get(name) for name in fault["loc"] if name in RESOURCES}
        raise ValueError(f"resources is {said or dict(resources)}: {fault['msg']}") from exc
    return owned(workers.proxy, "map", checked, workers.image)


def process_workers(proxy: ProxyAddress) -> Workers:
    """Return workers that are processes of the machines' users, a core each."""
    return _process_workers(proxy, owner().peer_id)


@lru_cache(maxsize=KEPT)
def _process_workers(proxy: ProxyAddress, _owner: PeerId) -> Workers:
    spec = ServiceSpec(
        process=COMMAND,
        concurrency=1,
        cpu_millicores=CORE_MILLICORES,
        preempt_grace_s=PREEMPT_GRACE_S,
    )
    return owned(proxy, "map", spec)


def container_workers(proxy: ProxyAddress, image: str) -> Workers:
    """Return workers that are containers, a core each, without network and with few rights.

    Args:
        proxy: that is asked.
        image: by name; who runs in it is for the image to say.
    """
    spec = ServiceSpec(
        command=IMAGE_COMMAND,
        concurrency=1,
        cpu_millicores=CORE_MILLICORES,
        memory_mib=CONTAINER_MIB,
        preempt_grace_s=PREEMPT_GRACE_S,
        network="none",
        read_only=True,
        cap_drop_all=True,
    )
    return owned(proxy, "map", spec, image)


def owned(proxy: ProxyAddress, prefix: str, spec: ServiceSpec, image: str | None = None) -> Workers:
    """Return the instances of a service that is this user's own, under a name that begins so."""
    return Workers(proxy, _name(prefix, owner(), spec, image or ""), spec, image)


def _name(prefix: str, its_owner: Identity, spec: ServiceSpec, image: str) -> ServiceName:
    """Return a name that is one owner's, and this spec's."""
    said = f"{its_owner.peer_id} {spec.model_dump_json()}{image}"
    return service_name(f"{prefix}-{hashlib.sha256(said.encode()).hexdigest()[:10]}")
