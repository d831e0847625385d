from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from overlay.identity import Identity
from overlay.membership import MemberState
from overlay.mirroring import MAX_RECORDS, NEWS, Feed, Mirror, Published
from overlay.names import InstanceId, ServiceName
from overlay.records import (
    InstanceRecord,
    InstanceState,
    PeerRecord,
    Role,
    Version,
    sign_record,
)
from overlay.testing import StillClock, bury, cut, empty_view, measure, meet, pass_time
from overlay.view import LOAD_FRESH_S, InstanceView, PeerView, View

NOW = 1_700_000_000.0
HELLO, OTHER = ServiceName("hello"), ServiceName("other")
ME, *OTHERS = (Identity.from_seed(bytes([n]) * 32) for n in range(4))


class World:
    """A view that things happen to, and one that mirrors it over what would be a socket."""

    def __init__(self) -> None:
        self.view = empty_view(ME, "here")
        self.feed = Feed(self.view)
        self.clock = StillClock()
        self.mirror = Mirror(ME.peer_id, "here", self.clock)
        self._counter = 0
        self._take(ME, Role.PROXY, "here")

    def meet(self, owner: Identity, rtts_s: Iterable[float] = ()) -> None:
        """Have an owner say what it is; the first time it is probed, too."""
        first = self.view.peer(owner.peer_id) is None
        near = "here" if owner is OTHERS[0] else f"machine-of-{owner.peer_id}"
        self._take(owner, Role.ALLOCATOR, near)
        meet(self.view, owner.peer_id, NOW)
        for rtt_s in rtts_s if first else ():
            measure(self.view, owner.peer_id, rtt_s)
            self.look()

    def publish(self, owner: Identity, instance: str, service: ServiceName, **how: bool) -> None:
        record = InstanceRecord(
            version=self._next(),
            id=InstanceId(instance),
            service=service,
            revision=1,
            state=InstanceState.READY,
            concurrency=5,
            **how,
        )
        self.view.apply(sign_record(owner, record), NOW)

    def void(self, owner: Identity) -> None:
        """Have an owner say that all that it published before is void."""
        self._take(owner, Role.ALLOCATOR, "here", floor=self._counter)

    def look(self) -> None:
        """Have the mirror told."""
        self.clock.now = self.view.clock()
        lines = [message.model_dump_json() for message in self.feed.news()]
        self.mirror.take(map(NEWS.validate_json, lines), NOW)

    def _take(self, owner: Identity, role: Role, machine: str, floor: int = 0) -> None:
        record = PeerRecord(
            version=self._next(), floor=floor, role=role, host="a host", machine=machine
        )
        self.view.apply(sign_record(owner, record), NOW)

    def _next(self) -> Version:
        self._counter += 1
        return Version(epoch=NOW, counter=self._counter)


def readers_see(view: View) -> tuple[list[PeerView], dict[str, InstanceView], dict[str, int]]:
    """Return everything that selection reads."""
    instances = {f"{i.owner}/{i.record.id}": i for i in view.all_instances()}
    loads = {key: view.in_flight(i) for key, i in instances.items()}
    return sorted(view.peers(), key=lambda p: p.peer_id), instances, loads


owners = st.sampled_from(OTHERS)
names = st.sampled_from(["i1", "i2"])
services = st.sampled_from([HELLO, OTHER])
events = st.one_of(
    st.tuples(st.just("meet"), owners, st.lists(st.floats(0.0001, 0.2), max_size=3)),
    st.tuples(st.just("publish"), owners, names, services),
    st.tuples(st.just("withdraw"), owners, names, services),
    st.tuples(st.just("void"), owners),
    st.tuples(st.just("load"), owners, names, st.integers(0, 9)),
    st.tuples(st.just("cut"), owners),
    st.tuples(st.just("bury"), owners),
    st.tuples(st.just("forget"), owners),
    st.tuples(st.just("time"), st.floats(0.0, 2 * LOAD_FRESH_S)),
    st.tuples(st.just("look")),
)


def happen(world: World, event: tuple[object, ...]) -> None:
    match event:
        case ("meet", Identity() as owner, list() as rtts_s):
            world.meet(owner, rtts_s)
        case ("publish", Identity() as owner, str(instance), str(service)):
            world.publish(owner, instance, ServiceName(service))
        case ("withdraw", Identity() as owner, str(instance), str(service)):
            world.publish(owner, instance, ServiceName(service), withdrawn=True)
        case ("load", Identity() as owner, str(instance), int(load)):
            world.view.set_load(owner.peer_id, {InstanceId(instance): load})
        case ("time", float(seconds)):
            pass_time(world.view, seconds)
        case ("look",):
            world.look()
        case (str(what), Identity() as owner):
            befall(world, what, owner)


def befall(world: World, what: str, owner: Identity) -> None:
    """Have something happen to an owner, if it can."""
    view, peer = world.view, owner.peer_id
    there = view.membership.state(peer) in {MemberState.ALIVE, MemberState.SUSPECT}
    if what == "void" and view.peer(peer) is not None:
        world.void(owner)
    elif what == "forget" and not there:
        view.forget(peer)
    elif what == "cut" and there:
        cut(view, peer)
    elif what == "bury" and there:
        bury(view, peer)


@given(st.lists(events, max_size=40))
def test_a_mirror_shows_what_the_view_shows(happened: list[tuple[object, ...]]) -> None:
    world = World()
    for event in happened:
        happen(world, event)
    world.look()
    assert readers_see(world.mirror.view) == readers_see(world.view)


def test_what_has_not_changed_is_not_said_again() -> None:
    world = World()
    world.meet(OTHERS[0])
    world.publish(OTHERS[0], "i1", HELLO)
    world.look()
    assert list(world.feed.news()) == []


def test_messages_are_small_however_much_is_new() -> None:
    world = World()
    world.meet(OTHERS[0])
    for number in range(20):
        world.publish(OTHERS[0], f"i{number}", HELLO)
    published = [m for m in world.feed.news() if isinstance(m, Published)]
    assert max(len(m.records) for m in published) == MAX_RECORDS
    assert sum(len(m.records) for m in published) == 22
