"""The yardstick of a cold start: a container that the Docker SDK alone creates and starts.

It has the options that Myxo uses, taken from the allocator itself, its network among them; then
comes the first byte of an answer, by a connect attempt each millisecond.
"""

import secrets
import time
from collections.abc import Callable

import docker

from allocator.containers import (
    Ownership,
    address_of,
    container_config,
    container_name,
    host_config,
)
from allocator.runtime import Launch
from bench.client import Answer, ask
from overlay.names import InstanceId, PeerId, ServiceName
from overlay.spec import ServiceSpec


class Bare:
    """Containers started by the SDK alone, one after the other.

    Args:
        client: of the engine.
        spec: what is run; the same as Myxo runs.
        inside: calls what it is given where the engine's containers can be reached.
    """

    def __init__(
        self,
        client: docker.APIClient,
        spec: ServiceSpec,
        inside: Callable[[Callable[[], Answer]], Answer] = lambda act: act(),
    ) -> None:
        self._client = client
        self._spec = spec
        self._inside = inside
        self._ownership = Ownership("bench", PeerId(f"bench-{secrets.token_hex(4)}"))
        self._name = ""

    def start(self) -> float:
        """Start one; return the seconds to the first byte of its answer.

        Raises:
            AnswerFailed: none came.
        """
        launch = Launch(
            id=InstanceId(secrets.token_hex(6)),
            service=ServiceName("bench-bare"),
            revision=1,
            author=self._ownership.owner,
            spec=self._spec,
            proxy_port=4200,
        )
        self._name = container_name(launch.service, launch.id)
        began = time.perf_counter()
        config = container_config(launch, self._ownership, "127.0.0.1")
        limits = self._client.create_host_config(**host_config(self._spec))
        self._client.create_container(**config, host_config=limits)
        self._client.start(self._name)
        address = address_of(self._client.inspect_container(self._name))
        url = f"http://{address}:{self._spec.port}/"
        return self._inside(lambda: ask(url, began=began)).first_byte_s

    def remove(self) -> None:
        """Remove the one that was started last."""
        self._client.remove_container(self._name, force=True, v=True)
