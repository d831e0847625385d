"""A real Envoy between a client, instances and a proxy that are played here."""

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx
import trio

from overlay.http.connection import ServerConnection
from overlay.http.errors import BadRequest, ClientGone
from overlay.http.head import RequestHead, get
from overlay.names import InstanceId, PeerId, service_name
from overlay.passphrase import network_keys
from overlay.spec import ServiceSpec
from overlay.testing_ports import free_port
from overlay.tls import PeerTls, open_tls
from proxy.envoy.admin import Admin
from proxy.envoy.bootstrap import Files, bootstrap, gateway_secrets, secret_message, secrets
from proxy.envoy.clusters import cluster_of, endpoints_of, proxy_cluster
from proxy.envoy.folder import Folder
from proxy.envoy.fronts import Front
from proxy.envoy.mapping import Endpoint, Machine, Mapped
from proxy.envoy.messages import resources
from proxy.envoy.process import EnvoyProcess, envoy_program
from proxy.envoy.routes import route_configuration
from proxy.envoy.service import in_memory

TIMEOUT_S = 60.0
KEYS = network_keys("a passphrase for this test")
HELLO = service_name("hello")

Answer = Callable[[ServerConnection, RequestHead], Awaitable[None]]


def answering(status: int = 200, *fields: tuple[bytes, bytes]) -> Answer:
    """Return what answers every request alike."""

    async def answer(client: ServerConnection, head: RequestHead) -> None:
        await client.respond(status, list(fields), head.target)

    return answer


async def never(client: ServerConnection, head: RequestHead) -> None:
    """Answer nothing."""
    del client, head
    await trio.sleep_forever()


@dataclass
class Server:
    """An instance, a gateway or the proxy.

    Attributes:
        heads: of what it was sent.
    """

    answer: Answer
    port: int = 0
    heads: list[RequestHead] = field(default_factory=list)

    async def serve(self, stream: trio.abc.Stream) -> None:
        """Serve one connection to its end."""
        client = ServerConnection(stream)
        try:
            while (head := await client.read_head()) is not None:
                self.heads.append(head)
                await self.answer(client, head)
        except (BadRequest, ClientGone, trio.BrokenResourceError):
            pass
        finally:
            await client.aclose()

    def field(self, name: bytes) -> list[bytes]:
        """Return a field's value in each request that came."""
        return [get(head.headers, name) or b"" for head in self.heads]


@dataclass
class Stage:
    """What is to be played.

    Attributes:
        proxy: gets what Envoy does not serve; its answers have the status 299.
        tls: what Envoy shows to gateways.
        envoy: once it plays.
    """

    nursery: trio.Nursery
    files: Files
    front: Front
    proxy: Server
    tls: PeerTls
    envoy: EnvoyProcess | None = None

    async def instance(self, answer: Answer) -> Server:
        """Start an instance."""
        made = Server(answer)
        made.port = await self.listen(made.serve)
        return made

    async def listen(self, serve: Callable[[trio.SocketStream], Awaitable[None]]) -> int:
        """Serve connections; return the port that they come to."""
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.nursery.start_soon(trio.serve_listeners, serve, listeners)
        return int(listeners[0].socket.getsockname()[1])

    async def play(
        self, mapped: Mapped, pems: Sequence[bytes] = (), authorities: str | None = None
    ) -> httpx.AsyncClient:
        """Have Envoy serve a service; return a client of it.

        Args:
            mapped: the service.
            pems: what clients are shown, each a key and its certificate.
            authorities: of what clients must show.
        """
        folder, files = Folder(), self.files
        mutual = authorities is not None
        boot = bootstrap(files, [self.front], certificates=len(pems), mutual=mutual)
        folder.write(files.bootstrap, boot)
        found = gateway_secrets(self.tls.leaf, files.key, self.tls.authorities)
        for secret in found + secrets(pems, authorities):
            folder.write(files.secret(secret["name"]), secret_message(1, secret))
        ends = endpoints_of(mapped, files.proxy)
        file = files.endpoints(mapped.name, mapped.version)
        folder.write(file, resources("config.endpoint.v3.ClusterLoadAssignment", 1, [ends]))
        clusters = [cluster_of(mapped, file, files.credentials), proxy_cluster(files.proxy)]
        folder.write(files.clusters, resources("config.cluster.v3.Cluster", 1, clusters))
        routes = route_configuration(self.front, [mapped])
        kind = "config.route.v3.RouteConfiguration"
        folder.write(files.routes(self.front.name), resources(kind, 1, [routes]))
        key = int(files.key.name)
        envoy = self.envoy = EnvoyProcess(
            envoy_program(), files.bootstrap, 1, Admin(files.admin), inherited=[key]
        )
        await self.nursery.start(envoy.run)
        return httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{self.front.port}/{mapped.name}/", timeout=TIMEOUT_S
        )


@asynccontextmanager
async def open_stage(folder: Path) -> AsyncIterator[Stage]:
    """Yield a stage on which nothing is played yet."""
    tls = open_tls(KEYS, PeerId("proxy"))
    with trio.fail_after(TIMEOUT_S), in_memory(tls.key()) as key:
        async with trio.open_nursery() as nursery:
            files = Files(folder, Path(f"/dev/fd/{key}"))
            proxy = Server(answering(299))
            sock = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
            await sock.bind(str(files.proxy))
            sock.listen(64)
            listener = trio.SocketListener(sock)
            nursery.start_soon(trio.serve_listeners, proxy.serve, [listener])
            front = Front("inside", "127.0.0.1", free_port())
            yield Stage(nursery, files, front, proxy, tls)
            nursery.cancel_scope.cancel()


def of(spec: ServiceSpec, *instances: Server, weights: Iterable[int] = ()) -> Mapped:
    """Return a service with these instances."""
    given = list(weights) or [1] * len(instances)
    ends = (
        Endpoint(InstanceId(f"i{number}"), f"127.0.0.1:{one.port}", given[number])
        for number, one in enumerate(instances)
    )
    return Mapped(HELLO, spec, tuple(ends))


def beside(mapped: Mapped, gateway: Server, pin: str) -> Mapped:
    """Return a service that has instances behind a gateway, too."""
    peer = PeerId("far")
    machine = Machine(peer, (("127.0.0.1", gateway.port),), f"{mapped.name}/1")
    return replace(mapped, machines=(machine,), pins=((peer, pin),))


def counted(statuses: Iterable[httpx.Response]) -> Counter[int]:
    """Return how often each status came."""
    return Counter(one.status_code for one in statuses)
