"""An image from a machine that nobody can dial: its bytes come through a relay, as its calls do."""

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import trio

from allocator.images.fetch import ImageFetcher, Near
from allocator.images.messages import IMAGE_PROTOCOL, ImageReply, ImageRequest
from allocator.images.peers import Read
from allocator.images.road import ImageRoad
from allocator.images.shelf import Shelf
from allocator.images.source import ImageSource
from allocator.testing_images import FakeImages, make_image
from overlay.calls import Caller, serve_calls
from overlay.connection import Connection, MuxedBytes
from overlay.errors import PeerUnreachable
from overlay.host import Host, open_host
from overlay.http.carried import HTTP_PROTOCOL, CarriedStream, open_carried
from overlay.http.connection import ServerConnection
from overlay.http.errors import ClientGone
from overlay.http.gateway import ACCEPT_LINE
from overlay.identity import Identity
from overlay.names import Digest, PeerId, ServiceName
from overlay.passphrase import network_keys
from overlay.records import PeerRecord, Role, Version
from overlay.relay import Relay
from overlay.reservations import Reservations
from overlay.revision import Revision, SignedRevision
from overlay.spec import Image, ServiceSpec
from overlay.tls import open_tls

LOOPBACK = "/ip4/127.0.0.1/tcp/0"
OWNER = Identity.generate()
IMAGE = make_image(b"base" * 500_000, b"app" * 1000)
WANTED = Image(reference="hello", config_digest=IMAGE.digest)
HELLO = SignedRevision.sign(
    OWNER, Revision(name=ServiceName("hello"), number=1, spec=ServiceSpec(image=WANTED))
)


@dataclass
class Hidden:
    """The peers of a fetching allocator: one, whose only address leads through a relay."""

    here: Host
    there: PeerId
    address: str

    async def connect(self, peer: PeerId) -> None:
        await self.here.connect(peer, self.address, timeout_s=5)

    def near(self, image: Digest) -> Sequence[Near]:
        return [Near(self.there, 0.01, image == IMAGE.digest)]

    async def ask(
        self, peer: PeerId, image: Digest, *, prepare: bool, timeout_s: float
    ) -> ImageReply:
        assert image == IMAGE.digest
        request = ImageRequest(revision=HELLO.signed, prepare=prepare)
        calls = Caller(self.here)
        return await calls.call(peer, IMAGE_PROTOCOL, request, ImageReply, timeout_s=timeout_s)

    @property
    def read(self) -> Read:
        record = PeerRecord(
            version=Version(epoch=1.0, counter=1),
            role=Role.ALLOCATOR,
            host="there",
            addresses=(self.address,),
        )
        tls = open_tls(network_keys(None), self.here.peer_id)
        return ImageRoad(lambda _: record, tls, partial(open_carried, self.here, self.connect)).read


async def not_dialled(peer: PeerId) -> None:
    raise PeerUnreachable(f"{peer} is not dialled in this test")


async def nothing_beside(_: Connection) -> None:
    pass


@asynccontextmanager
async def hidden_behind(relay: Host, host: Host) -> AsyncIterator[str]:
    """Keep `host` within reach through `relay`; yield the address that leads there."""
    reserved: list[str] = []
    news = trio.Event()

    def changed(addresses: tuple[str, ...]) -> None:
        reserved[:] = addresses
        news.set()

    relays = [relay.peer_id]
    kept = Reservations(host, not_dialled, lambda: relays, changed, nothing_beside, time.time)
    async with trio.open_nursery() as nursery:
        await host.connect(None, relay.listen_addresses()[0], timeout_s=5)
        nursery.start_soon(kept.run)
        await news.wait()
        yield reserved[0]
        nursery.cancel_scope.cancel()


def hand_on(host: Host, folder: Path) -> list[str]:
    """Have a host hand its image on as a gateway does; return who reads, as they come."""
    readers: list[str] = []
    images = FakeImages()
    images.put(IMAGE)

    async def named(_: PeerId, request: ImageRequest) -> Digest:
        await trio.lowlevel.checkpoint()
        assert request.revision == HELLO.signed
        return IMAGE.digest

    source = ImageSource(images, named, folder / "saved", 10**8)

    async def serve(connection: Connection, stream: MuxedBytes) -> None:
        readers.append(connection.peer)
        carried = CarriedStream(stream, connection.peer)
        client = ServerConnection(carried)
        try:
            await carried.send_all(ACCEPT_LINE)
            while (head := await client.read_head()) is not None:
                await source.serve(client, head, connection.peer)
        except (ClientGone, trio.BrokenResourceError):
            await client.abort()

    host.handle_bytes(HTTP_PROTOCOL, serve)
    serve_calls(host, IMAGE_PROTOCOL, ImageRequest, source.answer)
    return readers


async def test_an_image_of_a_hidden_machine_comes_through_its_relay(tmp_path: Path) -> None:
    open_one = partial(open_host, listen=[LOOPBACK], psk=None)
    with trio.fail_after(60):
        async with (
            open_one(Identity.generate()) as relay,
            open_one(Identity.generate()) as there,
            open_one(Identity.generate()) as here,
        ):
            Relay(relay, relay.listen_addresses, time.time, None)
            readers = hand_on(there, tmp_path)
            async with hidden_behind(relay, there) as address:
                assert "p2p-circuit" in address
                peers = Hidden(here, there.peer_id, address)
                await peers.connect(there.peer_id)
                images = FakeImages()
                shelf = Shelf(images, tmp_path / "fetched.json", 0, in_use=set, registered=set)
                fetcher = ImageFetcher(images, peers, shelf, tmp_path / "coming")
                await fetcher.fetch(WANTED, OWNER.peer_id)
    assert images.images[IMAGE.digest].layers == IMAGE.layers
    assert readers == [here.peer_id] * len(IMAGE.layers)
