"""Docker Swarm's start from zero, beside which a cold request is measured: `service scale` 0 → 1.

On a host of the lab with an engine of its own, so that the machine's engine is left as it is. The
service's port is published on the host, which is the fastest that Swarm has: its own load balancer
needs modules that not every kernel has. The clock runs from telling the manager to the first byte
by a connect attempt each millisecond. After scaling down, the old task goes on answering for a
while; the next start waits until its port refuses and its container is gone.
"""

import socket
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import docker
from docker.errors import DockerException
from docker.types import ContainerSpec, EndpointSpec, ServiceMode, TaskTemplate

from bench import backend
from bench.client import ask
from bench.errors import NetworkFailed
from bench.netlab.hosts import Host
from bench.netlab.lab import open_lab
from bench.netlab.plan import make_plan

GONE_TIMEOUT_S = 30.0
_STEP_S = 0.02
_NAME = "bench-answer"


class Swarm:
    """A swarm of one node with one service.

    Args:
        client: of its engine.
        host: on which the engine runs.
    """

    def __init__(self, client: docker.APIClient, host: Host) -> None:
        self._client = client
        self._host = host
        client.init_swarm(advertise_addr=host.address, listen_addr=host.address)
        answer = TaskTemplate(ContainerSpec(backend.image(client).reference))
        ports = EndpointSpec(ports={backend.PORT: (backend.PORT, "tcp", "host")})
        client.create_service(
            answer, name=_NAME, mode=ServiceMode("replicated", replicas=0), endpoint_spec=ports
        )

    def start(self) -> float:
        """Scale from 0 to 1; return the seconds to the first byte.

        Raises:
            AnswerFailed: none came.
        """
        url = f"http://{self._host.address}:{backend.PORT}/"
        began = time.perf_counter()
        self._scale(1)
        return self._host.inside(lambda: ask(url, began=began)).first_byte_s

    def remove(self) -> None:
        """Scale to 0 and wait until nothing of the task is left.

        Raises:
            NetworkFailed: something is.
        """
        self._scale(0)
        deadline = time.monotonic() + GONE_TIMEOUT_S
        while self._host.inside(self._answers) or self._client.containers():
            if time.monotonic() > deadline:
                raise NetworkFailed(f"Swarm's task is still there after {GONE_TIMEOUT_S:g} s")
            time.sleep(_STEP_S)

    def leave(self) -> None:
        """End the swarm."""
        self._client.leave_swarm(force=True)

    def _scale(self, replicas: int) -> None:
        version = self._client.inspect_service(_NAME)["Version"]["Index"]
        self._client.update_service(
            _NAME,
            version,
            mode=ServiceMode("replicated", replicas=replicas),
            fetch_current_spec=True,
        )

    def _answers(self) -> bool:
        try:
            socket.create_connection((self._host.address, backend.PORT), 1.0).close()
        except OSError:
            return False
        return True


@contextmanager
def open_swarm() -> Iterator[Swarm]:
    """Make a swarm for the length of a block.

    Raises:
        LabFailed: the host or its engine cannot be started.
        NetworkFailed: the engine makes no swarm.
    """
    with open_lab(make_plan(hosts=[{"name": "swarm", "engine": True}])) as lab:
        host = lab.host("swarm")
        url = host.environment["DOCKER_HOST"]
        with closing(docker.APIClient(base_url=url, version="auto", timeout=60)) as client:
            try:
                swarm = Swarm(client, host)
            except DockerException as exc:
                raise NetworkFailed(f"the engine makes no swarm: {exc}") from exc
            try:
                yield swarm
            finally:
                swarm.leave()
