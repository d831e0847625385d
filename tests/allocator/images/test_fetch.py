import os
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.lowlevel
import trio.testing

from allocator.errors import ImageMissing, Refused
from allocator.images import peers as image_peers
from allocator.images.fetch import ImageFetcher
from allocator.images.layers import remove_old
from allocator.images.shelf import Shelf
from allocator.testing_images import FakeImage, FakeImages, FakePeer, FakePeers, make_image
from overlay.names import Digest, PeerId
from overlay.spec import Image

BASE, APP = b"base" * 5000, b"app" * 3000
IMAGE = make_image(BASE, APP)
BASE_ID, APP_ID = IMAGE.layers
OWNER = PeerId("owner")
NEAR, FAR, FARTHER = (PeerId(name) for name in ("near", "far", "farther"))
WANTED = Image(reference="hello:1", config_digest=IMAGE.digest, size_bytes=IMAGE.size_bytes)
PUSHED = WANTED.model_copy(update={"repo_digest": "hello@sha256:1"})
MIB = 1024 * 1024


@dataclass
class Here:
    folder: Path
    bound_bytes: int = 0
    images: FakeImages = field(default_factory=FakeImages)
    peers: FakePeers = field(default_factory=FakePeers)
    in_use: set[Digest] = field(default_factory=set)
    now: float = 0.0

    def __post_init__(self) -> None:
        self.shelf = self.open_shelf()
        self.fetcher = ImageFetcher(self.images, self.peers, self.shelf, self.folder / "coming")

    def open_shelf(self) -> Shelf:
        return Shelf(
            self.images,
            self.folder / "fetched.json",
            self.bound_bytes,
            in_use=lambda: self.in_use,
            registered=set,
            clock=lambda: self.now,
        )

    def peer(self, name: PeerId, *images: FakeImage) -> FakePeer:
        made = FakePeer(
            {image.digest: image for image in images}, rtt_s=0.01 * len(self.peers.peers)
        )
        self.peers.peers[name] = made
        return made

    async def fetch(self, image: Image = WANTED, owner: PeerId = OWNER) -> None:
        with trio.fail_after(20):
            await self.fetcher.fetch(image, owner)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Here:
    monkeypatch.setattr(image_peers, "RETRY_FIRST_S", 0.001)
    monkeypatch.setattr(image_peers, "STAGGER_S", 0.0)
    return Here(tmp_path)


async def test_an_image_comes_from_a_peer_that_has_it(here: Here) -> None:
    here.peer(NEAR, IMAGE)
    await here.fetch()
    assert here.images.images[IMAGE.digest].layers == IMAGE.layers
    assert list((here.folder / "coming").iterdir()) == []


async def test_a_peer_whose_record_does_not_name_the_image_is_asked_too(here: Here) -> None:
    here.peer(NEAR, IMAGE).named = False
    await here.fetch()
    assert IMAGE.digest in here.images.images


async def test_layers_that_are_here_do_not_come_again(here: Here) -> None:
    here.images.put(make_image(BASE))
    near = here.peer(NEAR, IMAGE)
    await here.fetch()
    assert near.reads == [(APP_ID, 0)]
    assert here.images.loaded_layers == [APP_ID]


async def test_a_cut_layer_goes_on_where_it_was_cut(here: Here) -> None:
    near = here.peer(NEAR, IMAGE)
    near.cuts = [7000, 5000]
    await here.fetch()
    assert near.reads[:3] == [(BASE_ID, 0), (BASE_ID, 7000), (BASE_ID, 12000)]


async def test_what_a_failed_fetch_left_is_used_by_the_next(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_peers, "PATIENCE_S", 0.0)
    near = here.peer(NEAR, IMAGE)
    near.cuts = [7000] + [0] * 5
    with pytest.raises(ImageMissing, match="was cut"):
        await here.fetch()
    near.cuts = []
    near.reads.clear()
    await here.fetch()
    assert (BASE_ID, 7000) in near.reads


async def test_the_layer_of_a_peer_that_goes_is_another_ones_to_go_on_with(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_peers, "PATIENCE_S", 0.0)
    near, far = here.peer(NEAR, IMAGE), here.peer(FAR, IMAGE)
    near.cuts, far.gate = [7000] + [0] * 1000, trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(here.fetch)
        with trio.fail_after(20):
            while not (near.reads and far.reads):
                await trio.lowlevel.checkpoint()
        far.gate.set()
    assert IMAGE.digest in here.images.images
    assert (near.reads[0][0], 7000) in far.reads


async def test_several_peers_give_different_layers(here: Here) -> None:
    near, far = here.peer(NEAR, IMAGE), here.peer(FAR, IMAGE)
    near.gate = far.gate = gate = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(here.fetch)
        with trio.fail_after(20):
            while not (near.reads and far.reads):
                await trio.lowlevel.checkpoint()
        gate.set()
    assert {layer for layer, _ in near.reads + far.reads} == {BASE_ID, APP_ID}
    assert len(near.reads + far.reads) == len(IMAGE.layers)


async def test_a_lying_source_is_left_and_the_image_comes_from_another(here: Here) -> None:
    near, far = here.peer(NEAR, IMAGE), here.peer(FAR, IMAGE)
    near.lies = True
    await here.fetch()
    assert here.images.images[IMAGE.digest].layers == IMAGE.layers
    assert len(near.reads) == 1, "it is not asked again"
    assert {layer for layer, _ in far.reads} == {BASE_ID, APP_ID}


async def test_wrong_bytes_never_reach_the_engine(here: Here) -> None:
    here.peer(NEAR, IMAGE).lies = True
    with pytest.raises(ImageMissing, match="wrong bytes"):
        await here.fetch()
    assert here.images.loads == 0


async def test_a_source_that_hands_over_a_poisoned_part_does_not_get_others_blamed(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_peers, "PATIENCE_S", 0.0)
    near, _ = here.peer(NEAR, IMAGE), here.peer(FAR, IMAGE)
    near.lies, near.cuts = True, [7000, 0, 0, 0]
    await here.fetch()
    assert here.images.images[IMAGE.digest].layers == IMAGE.layers


@pytest.mark.parametrize("states", [1, 10 * MIB, 10**11])
async def test_a_source_that_lies_about_sizes_is_left(here: Here, states: int) -> None:
    here.peer(NEAR, IMAGE).states = states
    here.peer(FAR, IMAGE)
    await here.fetch()
    assert here.images.images[IMAGE.digest].layers == IMAGE.layers


async def test_a_source_that_gives_nothing_holds_up_nobody(here: Here) -> None:
    near, far = here.peer(NEAR, IMAGE), here.peer(FAR, IMAGE)
    near.cuts = [0] * 1000
    await here.fetch()
    assert {layer for layer, _ in far.reads} == {BASE_ID, APP_ID}


async def test_a_peer_that_nobody_answers_for_is_left(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_peers, "ASK_TIMEOUT_S", 0.01)
    here.peer(NEAR, IMAGE).silent = True
    with pytest.raises(ImageMissing, match="no machine near has it"):
        await here.fetch()


async def test_a_source_that_trickles_is_left_for_one_that_does_not(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_peers, "SLOW_WINDOW_S", 0.0)
    monkeypatch.setattr(image_peers, "LEAST_RATE", 1e15)
    here.peer(NEAR, IMAGE)
    with pytest.raises(ImageMissing, match="bytes a second"):
        await here.fetch()


async def test_a_pushed_image_is_pulled_if_no_peer_has_it(here: Here) -> None:
    here.images.pushed["hello@sha256:1"] = IMAGE
    here.peer(NEAR)
    await here.fetch(PUSHED)
    assert here.images.pulls == 1


async def test_the_registry_is_tried_when_peers_fail_and_peers_when_it_fails(here: Here) -> None:
    here.peer(NEAR, IMAGE).lies = True
    here.images.pushed["hello@sha256:1"] = IMAGE
    await here.fetch(PUSHED)
    assert here.images.pulls == 1
    del here.images.images[IMAGE.digest]
    here.peers.peers[NEAR].lies = False
    here.images.pushed.clear()
    await here.fetch(PUSHED)
    assert IMAGE.digest in here.images.images


async def test_another_image_under_the_pushed_digest_is_refused(here: Here) -> None:
    here.images.pushed["hello@sha256:1"] = make_image(b"other")
    with pytest.raises(ImageMissing, match="which the service names"):
        await here.fetch(PUSHED)


async def test_who_needs_an_image_by_its_name_does_not_get_it_from_a_peer(here: Here) -> None:
    near = here.peer(NEAR, IMAGE)
    with pytest.raises(ImageMissing, match="for its name alone"):
        await here.fetcher.fetch(PUSHED, OWNER, by_name=True)
    here.images.pushed["hello@sha256:1"] = IMAGE
    await here.fetcher.fetch(PUSHED, OWNER, by_name=True)
    assert near.asked == []
    assert here.images.pulls == 2


async def test_who_needs_it_by_name_is_not_content_with_what_came_from_a_peer(here: Here) -> None:
    near = here.peer(NEAR, IMAGE)
    near.gate = trio.Event()
    here.images.pushed["hello@sha256:1"] = IMAGE
    here.fetcher.rates.registry = 1.0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(here.fetch, PUSHED)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(partial(here.fetcher.fetch, PUSHED, OWNER, by_name=True))
        await trio.testing.wait_all_tasks_blocked()
        near.gate.set()
    assert here.images.loads == 1
    assert here.images.pulls == 1


async def test_what_was_here_before_is_not_taken_for_fetched(here: Here) -> None:
    here.images.put(IMAGE)
    here.images.pushed["hello@sha256:1"] = IMAGE
    await here.fetcher.fetch(PUSHED, OWNER, by_name=True)
    assert here.shelf.images == set()


async def test_another_image_than_is_meant_does_not_stay(here: Here) -> None:
    other = make_image(b"other")
    here.images.pushed["hello@sha256:1"] = other
    with pytest.raises(ImageMissing):
        await here.fetch(PUSHED)
    assert other.digest not in here.images.images


async def test_however_many_wait_an_image_is_fetched_once(here: Here) -> None:
    here.peer(NEAR, IMAGE)
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(here.fetch)
    assert here.images.loads == 1


async def test_who_waits_for_a_fetch_that_fails_has_its_failure_and_does_not_try_again(
    here: Here,
) -> None:
    near = here.peer(NEAR)
    refused: list[str] = []

    async def fetch() -> None:
        try:
            await here.fetch()
        except (ImageMissing, Refused) as exc:
            refused.append(str(exc))

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(fetch)
    assert len(refused) == 5
    assert len(near.asked) == 1


async def test_what_one_service_says_of_an_image_is_not_held_against_another(here: Here) -> None:
    here.images.pushed["hello@sha256:1"] = IMAGE
    refused: list[str] = []

    async def fetch_false() -> None:
        with pytest.raises(ImageMissing) as caught:
            await here.fetch(WANTED.model_copy(update={"repo_digest": "hello@sha256:2"}))
        refused.append(str(caught.value))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(fetch_false)
        await trio.testing.wait_all_tasks_blocked()
        await here.fetch(PUSHED)
    assert refused
    assert IMAGE.digest in here.images.images


async def test_a_source_that_states_more_than_another_needs_room_for_it(here: Here) -> None:
    near, far = here.peer(NEAR, IMAGE), here.peer(FAR, IMAGE)
    near.gate, far.states = trio.Event(), 10**9
    here.images.free = 2**30 + 10 * MIB
    async with trio.open_nursery() as nursery:
        nursery.start_soon(here.fetch, WANTED.model_copy(update={"size_bytes": None}))
        while not far.asked[1:]:
            await trio.lowlevel.checkpoint()
        await trio.testing.wait_all_tasks_blocked()
        near.gate.set()
    assert far.reads == []
    assert IMAGE.digest in here.images.images


async def test_what_comes_of_another_image_counts_as_taken(here: Here) -> None:
    large = make_image(bytes(8 * MIB))
    near = here.peer(NEAR, IMAGE, large)
    near.gate = trio.Event()
    here.images.free = 2**30 + 16 * MIB + 20_000
    async with trio.open_nursery() as nursery:
        nursery.start_soon(here.fetch, Image(reference="large", config_digest=large.digest))
        while not near.reads:
            await trio.lowlevel.checkpoint()
        with pytest.raises(Refused, match="the disk has"):
            await here.fetch()
        near.gate.set()


async def test_what_failed_fetches_left_goes_when_its_time_is_over_or_its_room_is_needed(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_peers, "PATIENCE_S", 0.0)
    near = here.peer(NEAR, IMAGE)
    near.cuts = [7000] + [0] * 5
    with pytest.raises(ImageMissing):
        await here.fetch()
    (left,) = (here.folder / "coming").iterdir()
    for path in (*left.iterdir(), left):
        os.utime(path, (0, 0))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(here.fetcher.run)
        while left.exists():
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    near.cuts = [7000] + [0] * 5
    with pytest.raises(ImageMissing):
        await here.fetch()
    here.images.free = 0
    with pytest.raises(Refused):
        await here.fetch(Image(reference="other", config_digest=Digest("sha256:" + "1" * 64)))
    assert not left.exists()


def test_a_try_that_still_grows_is_not_taken_for_old(tmp_path: Path) -> None:
    grows, busy = tmp_path / "grows", tmp_path / "busy"
    for folder in (grows, busy):
        folder.mkdir()
        (folder / "layer.part").touch()
        os.utime(folder, (0, 0))
    os.utime(busy / "layer.part", (0, 0))
    remove_old(tmp_path, 60, {"busy"})
    assert grows.exists(), "a file within it is new"
    assert busy.exists()
    remove_old(tmp_path, 60, ())
    assert not busy.exists()


async def test_an_image_without_room_is_refused_for_that_reason(here: Here) -> None:
    here.images.free = MIB
    here.peer(NEAR, IMAGE)
    with pytest.raises(Refused, match="the disk has 1 MiB free") as caught:
        await here.fetch()
    assert caught.value.code == "no_room"


async def test_how_far_a_fetch_is_can_be_seen(here: Here) -> None:
    near = here.peer(NEAR, IMAGE)
    near.gate = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(here.fetch)
        with trio.fail_after(20):
            while not near.reads:
                await trio.lowlevel.checkpoint()
        (shown,) = here.fetcher.status()
        near.gate.set()
    assert (shown["image"], shown["total_bytes"]) == ("hello:1", IMAGE.size_bytes)
    assert shown["from"] == [NEAR]
    assert here.fetcher.status() == []


async def fetched(here: Here, *contents: bytes) -> list[Digest]:
    """Fetch an image for each of `contents`, a second apart; return their digests."""
    digests = []
    for content in contents:
        image = make_image(content)
        here.peer(PeerId(content.decode()), image)
        here.now += 1
        await here.fetch(Image(reference="some", config_digest=image.digest))
        digests.append(image.digest)
    return digests


async def test_the_image_that_was_used_least_lately_makes_room(here: Here) -> None:
    here.bound_bytes = 10
    here.__post_init__()
    one, two, three = await fetched(here, b"aaaa", b"bbbb", b"cccc")
    assert set(here.images.images) == {two, three}
    assert one not in here.images.images


async def test_what_instances_use_and_what_others_brought_stays(here: Here) -> None:
    here.bound_bytes = 5
    here.__post_init__()
    own = make_image(b"own" * 100)
    here.images.put(own)
    (one,) = await fetched(here, b"aaaa")
    here.in_use.add(one)
    two, three = await fetched(here, b"bbbb", b"cccc")
    assert set(here.images.images) == {own.digest, one, three}
    assert two not in here.images.images


async def test_what_was_fetched_is_known_after_a_restart(here: Here) -> None:
    await fetched(here, b"aaaa")
    assert here.open_shelf().held_bytes == len(b"aaaa")
    (here.folder / "fetched.json").write_text("not json")
    assert here.open_shelf().held_bytes == 0
