"""Handing on and reading a layer, over a real HTTP connection that memory carries."""

from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio
import trio.testing

from allocator.errors import ImageMissing
from allocator.images import source as image_source
from allocator.images.messages import ImageRequest, layer_target
from allocator.images.plan import digest_of
from allocator.images.road import ImageRoad
from allocator.images.source import ImageSource
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
    folder: Path
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
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            yield There(source, images, nursery, sent, tmp_path)
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


async def test_a_peer_is_one_whichever_way_it_comes(
    there: There, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_source, "MAX_READERS_PER_PEER", 1)
    seen: list[str] = []

    async def twice(stream: trio.abc.Stream, caller: str) -> None:
        client = ServerConnection(stream)
        head = await client.read_head()
        assert head is not None
        with suppress(trio.BrokenResourceError, ClientGone):
            await there.source.serve(client, head, caller)

    there.source = ImageSource(
        there.images,
        lambda *_: _digest(),
        there.folder / "one",
        10 * len(BASE),
        who=lambda caller: seen.append(caller) or PEER,  # type: ignore[func-returns-value]
    )
    await there.ask()
    target = layer_target(IMAGE.digest, BASE_ID)
    request = b"GET " + target + b" HTTP/1.1\r\nHost: myxo\r\n\r\n"
    here, end = trio.testing.lockstep_stream_pair()  # nobody reads from it: it stays under way
    there.nursery.start_soon(twice, end, "its pin")
    await here.send_all(request)
    while not seen:
        await trio.lowlevel.checkpoint()
    other, its_end = trio.testing.memory_stream_pair()
    there.nursery.start_soon(twice, its_end, "its id")
    await other.send_all(request)
    assert (await other.receive_some()).startswith(b"HTTP/1.1 503")


async def test_a_reader_that_takes_nothing_loses_its_place(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    images = FakeImages()
    images.put(IMAGE)
    source = ImageSource(images, lambda *_: _digest(), tmp_path / "saved", 10 * len(BASE))
    await source.answer(PEER, ImageRequest(revision=GIVEN.signed, prepare=True))
    here, end = trio.testing.lockstep_stream_pair()
    target = layer_target(IMAGE.digest, BASE_ID)

    async def serve() -> None:
        client = ServerConnection(end)
        head = await client.read_head()
        assert head is not None
        with pytest.raises(ClientGone, match="takes nothing"):
            await source.serve(client, head, PEER)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        await here.send_all(b"GET " + target + b" HTTP/1.1\r\nHost: myxo\r\n\r\n")
        assert (await here.receive_some(100)).startswith(b"HTTP/1.1 200")


async def test_one_peer_has_only_so_many_images_prepared_at_once(there: There) -> None:
    images = [make_image(bytes([n]) * 1000) for n in range(image_source.MAX_SAVES_PER_PEER + 1)]
    there.images.put(*images)
    there.images.gate = trio.Event()
    wanted = iter([image.digest for image in images])

    async def named(*_: object) -> Digest:
        await trio.lowlevel.checkpoint()
        return next(wanted)

    source = ImageSource(there.images, named, there.folder / "many", 10 * len(BASE))
    request = ImageRequest(revision=GIVEN.signed, prepare=True)
    async with trio.open_nursery() as nursery:
        for _ in images[1:]:
            nursery.start_soon(source.answer, PEER, request)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(CallRefused, match="this peer") as caught:
            await source.answer(PEER, request)
        assert caught.value.code == "busy"
        wanted = iter([images[0].digest])
        there.images.gate.set()
        await source.answer(PeerId("another"), request)


async def test_one_peer_has_only_so_many_images_prepared_in_all(
    there: There, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_source, "SAVES_BURST", 1)
    other = make_image(b"other")
    there.images.put(other)
    wanted = iter([IMAGE.digest, IMAGE.digest, other.digest, other.digest])

    async def named(*_: object) -> Digest:
        await trio.lowlevel.checkpoint()
        return next(wanted)

    source = ImageSource(there.images, named, there.folder / "many", 10 * len(BASE))
    request = ImageRequest(revision=GIVEN.signed, prepare=True)
    await source.answer(PEER, request)
    await source.answer(PEER, request)
    with pytest.raises(CallRefused, match="this peer"):
        await source.answer(PEER, request)
    await source.answer(PeerId("another"), request)


async def test_a_peer_that_had_its_burst_gets_no_more_than_its_rate(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_source, "PEER_BURST_MIB", 1)
    monkeypatch.setattr(image_source, "PEER_RATE_MIB_S", 0.25)
    images = FakeImages()
    images.put(image := make_image(bytes(4 * 2**20)))

    async def named(*_: object) -> Digest:
        await trio.lowlevel.checkpoint()
        return image.digest

    source = ImageSource(images, named, tmp_path / "saved", 10**8)
    await source.answer(PEER, ImageRequest(revision=GIVEN.signed, prepare=True))
    here, end = trio.testing.memory_stream_pair()
    (layer,) = image.layers
    begun = trio.current_time()
    target = layer_target(image.digest, layer)
    await here.send_all(b"GET " + target + b" HTTP/1.1\r\nHost: myxo\r\n\r\n")
    client = ServerConnection(end)
    head = await client.read_head()
    assert head is not None
    await source.serve(client, head, PEER)
    assert trio.current_time() - begun == pytest.approx(3 / 0.25)


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
