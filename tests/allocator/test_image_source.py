"""Handing on and reading a layer, over a real HTTP connection that memory carries."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio
import trio.testing

from allocator import image_source
from allocator.errors import ImageMissing
from allocator.image_messages import ImageRequest, layer_target
from allocator.image_plan import digest_of
from allocator.image_road import ImageRoad
from allocator.image_source import ImageSource
from allocator.testing_images import FakeImages, make_image
from overlay.calls import CallRefused
from overlay.errors import PeerUnreachable
from overlay.http.connection import ServerConnection
from overlay.http.errors import ClientGone
from overlay.http.gateway import ACCEPT_LINE
from overlay.identity import Identity
from overlay.names import Digest, PeerId, ServiceName
from overlay.passphrase import network_keys
from overlay.records import PeerRecord, Role, Version
from overlay.revision import Revision, SignedRevision
from overlay.spec import Image, ServiceSpec
from overlay.tls import open_tls

OWNER = Identity.generate()
IMAGE = make_image(b"base" * 400_000, b"app" * 1000)
BASE_ID, APP_ID = IMAGE.layers
BASE = IMAGE.layers[BASE_ID]
PEER = PeerId("there")
SPEC = ServiceSpec(image=Image(reference="hello", config_digest=IMAGE.digest))
GIVEN = SignedRevision.sign(OWNER, Revision(name=ServiceName("hello"), number=1, spec=SPEC))
RELAYED = PeerRecord(
    version=Version(epoch=1.0, counter=1),
    role=Role.ALLOCATOR,
    host="there",
    addresses=("/ip4/192.0.2.1/tcp/4001/p2p/QmRelay/p2p-circuit",),
)


@dataclass
class There:
    """A peer with an image, and a road to it."""

    source: ImageSource
    images: FakeImages
    nursery: trio.Nursery
    sent: list[int]
    raw: list[bytes] = field(default_factory=list)

    async def carry(self, _: PeerId) -> trio.abc.Stream:
        """Open a connection to the peer."""
        here, there = trio.testing.memory_stream_pair()
        self.nursery.start_soon(self._serve, there)
        return here

    async def _serve(self, stream: trio.abc.Stream) -> None:
        await stream.send_all(ACCEPT_LINE)
        if self.raw:
            await stream.receive_some()
            await stream.send_all(self.raw.pop())
            await stream.aclose()
            return
        client = ServerConnection(stream)
        try:
            while (head := await client.read_head()) is not None:
                await self.source.serve(client, head, "caller")
        except (ClientGone, trio.BrokenResourceError):
            await client.abort()

    async def ask(self, *, prepare: bool = True) -> list[tuple[Digest, int]]:
        reply = await self.source.answer(PEER, ImageRequest(revision=GIVEN.signed, prepare=prepare))
        return [(layer.diff_id, layer.size_bytes) for layer in reply.layers]

    async def read(self, layer: Digest = BASE_ID, begin: int = 0, size: int = len(BASE)) -> bytes:
        road = ImageRoad(lambda _: RELAYED, open_tls(network_keys(None), OWNER.peer_id), self.carry)
        target = layer_target(IMAGE.digest, layer)
        return b"".join([p async for p in road.read(PEER, target, begin, size)])


@pytest.fixture
async def there(tmp_path: Path) -> AsyncIterator[There]:
    images = FakeImages()
    images.put(IMAGE)
    sent: list[int] = []

    async def named(_: PeerId, request: ImageRequest) -> Digest:
        await trio.lowlevel.checkpoint()
        if request.revision.signer != OWNER.peer_id:
            raise CallRefused("unknown_service", "no such service")
        return IMAGE.digest

    source = ImageSource(images, named, tmp_path / "saved", 10 * len(BASE), sent.append)
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            yield There(source, images, nursery, sent)
            nursery.cancel_scope.cancel()


async def test_a_layer_is_read_whole_and_from_any_byte_on(there: There) -> None:
    assert await there.ask() == [(BASE_ID, len(BASE)), (APP_ID, 3000)]
    assert digest_of(await there.read()) == BASE_ID
    assert await there.read(begin=1_000_001) == BASE[1_000_001:]
    assert sum(there.sent) == len(BASE) + len(BASE) - 1_000_001


async def test_an_image_is_saved_once_and_only_when_it_is_to_be_prepared(there: There) -> None:
    assert await there.ask(prepare=False) == []
    assert there.images.saves == 0
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(there.ask)
    assert there.images.saves == 1


async def test_what_was_not_prepared_cannot_be_read(there: There) -> None:
    with pytest.raises(ImageMissing, match="404"):
        await there.read()
    await there.ask()
    with pytest.raises(ImageMissing, match="404"):
        await there.read(digest_of(b"another"))
    with pytest.raises(ImageMissing, match="416"):
        await there.read(begin=len(BASE), size=len(BASE) + 1)


async def test_an_image_that_is_not_here_or_too_large_is_refused(
    there: There, tmp_path: Path
) -> None:
    small = ImageSource(there.images, lambda *_: _digest(), tmp_path / "small", 1000)
    with pytest.raises(CallRefused) as caught:
        await small.answer(PEER, ImageRequest(revision=GIVEN.signed))
    assert caught.value.code == "too_large"
    there.images.images.clear()
    with pytest.raises(CallRefused) as caught:
        await there.ask()
    assert caught.value.code == "absent"


async def _digest() -> Digest:
    await trio.lowlevel.checkpoint()
    return IMAGE.digest


async def test_only_so_many_read_at_once(there: There, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_source, "MAX_READERS_PER_PEER", 0)
    await there.ask()
    with pytest.raises(ImageMissing, match="503"):
        await there.read()


async def test_what_is_kept_for_others_is_bounded(there: There, tmp_path: Path) -> None:
    other = make_image(b"other" * 100_000)
    there.images.put(other)
    wanted = [IMAGE.digest]

    async def named(*_: object) -> Digest:
        await trio.lowlevel.checkpoint()
        return wanted[0]

    source = ImageSource(there.images, named, tmp_path / "two", int(1.2 * len(BASE)))
    request = ImageRequest(revision=GIVEN.signed, prepare=True)
    await source.answer(PEER, request)
    wanted[0] = other.digest
    await source.answer(PEER, request)
    assert [path.stem for path in (tmp_path / "two").iterdir()] == [other.digest[7:]]


@pytest.mark.parametrize(
    ("answer", "match"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n", "another size"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "another size"),
        (b"HTTP/1.1 206 Partial Content\r\nContent-Length: 10\r\n\r\n", "status 206"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1600000\r\n\r\nfew bytes", "cut|closed"),
        (b"nonsense\r\n\r\n", "cut"),
    ],
)
async def test_a_source_that_answers_something_else_is_found_out_at_once(
    there: There, answer: bytes, match: str
) -> None:
    there.raw.append(answer)
    with pytest.raises((ImageMissing, PeerUnreachable), match=match):
        await there.read()
