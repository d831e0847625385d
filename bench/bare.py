"""The yardstick of a cold start: a container that the Docker SDK alone creates and starts.

It has the options that Myxo uses, taken from the allocator itself, and starts as its instances do,
in a network sandbox made beforehand, where those can be had; then comes the first byte of an
answer, by a connect attempt each millisecond.
"""

import secrets
import time
from collections.abc import Callable

import docker

from allocator.engine.client import remove
from allocator.engine.containers import Ownership, container_config, container_name, host_config
from allocator.engine.networks import BRIDGE, address_of
from allocator.engine.sandbox_image import PROGRAM, sandbox_image
from allocator.engine.sandbox_pool import make_sandbox, network_mode
from allocator.engine.sandboxes import Kind, Sandbox
from allocator.runtime import Launch
from bench.client import Answer, ask
from overlay.names import InstanceId, PeerId, SandboxId, ServiceName
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
        self._sandbox: Sandbox | None = None

    def prepare(self) -> None:
        """Make the sandbox of the next start, if there is a program for it."""
        if self._sandbox is not None or not PROGRAM.exists():
            return
        self._sandbox = make_sandbox(
            self._client,
            SandboxId(secrets.token_hex(6)),
            Kind("outside", 4200),
            sandbox_image(PROGRAM.read_bytes()),
            self._ownership,
            None,
        )

    def start(self) -> float:
        """Start one, in the prepared sandbox; return the seconds to the first byte of its answer.

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
        mode = BRIDGE if self._sandbox is None else network_mode(self._sandbox)
        limits = self._client.create_host_config(**host_config(self._spec, mode))
        self._client.create_container(**config, host_config=limits)
        self._client.start(self._name)
        if self._sandbox is not None:
            address = self._sandbox.address
        else:
            address = address_of(self._client.inspect_container(self._name))
        url = f"http://{address}:{self._spec.port}/"
        return self._inside(lambda: ask(url, began=began)).first_byte_s

    def remove(self) -> None:
        """Remove the one that was started last."""
        remove(self._client, self._name)
        if self._sandbox is not None:
            remove(self._client, self._sandbox.container)
            self._sandbox = None
