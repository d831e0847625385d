from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from overlay.definitions import Replica
from overlay.identity import Identity
from overlay.names import ServiceName
from overlay.passphrase import network_keys
from overlay.revision import Revision, SignedRevision
from overlay.spec import ServiceSpec
from overlay.tls import open_tls
from proxy.ranking.routing_table import RoutingRecord, RoutingTable, routing_record
from proxy.workers.feeds import DefinitionsFeed, RoutesFeed, keys_message, keys_of
from proxy.workers.messages import FROM_DAEMON, Keys

ALICE = Identity.from_seed(b"a" * 32)
NAMES = st.sampled_from(["a", "b", "c"])


def revision(name: str, number: int) -> SignedRevision:
    spec = ServiceSpec(process="true")
    return SignedRevision.sign(ALICE, Revision(name=ServiceName(name), number=number, spec=spec))


@dataclass
class Known:
    """Definitions that a daemon may hold at a time."""

    store: str = "s"
    held: dict[str, SignedRevision] = field(default_factory=dict)

    def contents(self) -> tuple[str, int, tuple[SignedRevision, ...]]:
        return self.store, 1, tuple(self.held.values())


@given(
    st.lists(
        st.tuples(st.sampled_from(["add", "delete", "store"]), NAMES, st.integers(1, 3)),
        max_size=20,
    )
)
def test_a_replica_that_is_fed_holds_what_the_daemon_does(
    steps: list[tuple[str, str, int]],
) -> None:
    known, replica = Known(), Replica()
    feed, stores = DefinitionsFeed(known), 0
    for what, name, rise in steps:
        if what == "add":
            before = known.held.get(name)
            number = rise if before is None else before.revision.number + rise
            known.held[name] = revision(name, number)
        elif what == "delete":
            known.held.pop(name, None)
        else:  # another store may have older revisions
            stores += 1
            known.store, known.held = f"s{stores}", {name: revision(name, 1)}
        for message in feed.news():
            page = FROM_DAEMON.validate_json(message.model_dump_json())
            assert isinstance(page, type(message))
            replica.take_page(page.page)
        assert {n: replica.get(n) for n in replica.names()} == known.held
    assert list(feed.news()) == [] or not steps


@given(st.lists(st.tuples(NAMES, st.integers(0, 3)), max_size=20))
def test_a_table_that_is_fed_holds_what_the_daemon_s_does(steps: list[tuple[str, int]]) -> None:
    table, fed = RoutingTable(), RoutingTable()
    feed = RoutesFeed(table)
    for name, targets in steps:
        if targets:
            hosts = [f"host-{n}:80" for n in range(targets)]
            table.put(routing_record(name, hosts, [float(targets)] * targets), 0.0)
        else:
            table.unset(ServiceName(name), 0.0)
        for told in feed.news():
            if told.hosts:
                fed.put(RoutingRecord(told.service, told.hosts, told.weights), 0.0)
            else:
                fed.unset(told.service, 0.0)
        assert fed.records() == table.records()
        assert list(feed.news()) == []


def test_keys_that_were_told_make_contexts_for_the_same_peer_and_tell_nothing_else() -> None:
    keys, other = network_keys("one"), network_keys("other")
    told = FROM_DAEMON.validate_json(keys_message(keys, [other]).model_dump_json())
    assert isinstance(told, Keys)
    got, also = keys_of(told)
    assert (got.ca_seed, got.passphrase_id, got.network_id) == (
        keys.ca_seed,
        keys.passphrase_id,
        keys.network_id,
    )
    assert (got.psk, got.member_key, got.announcement_key) == (None, b"", b"")
    assert [one.ca_seed for one in also] == [other.ca_seed]
    first = open_tls(keys, ALICE.peer_id)
    assert open_tls(got, ALICE.peer_id, also_trusted=also, key=first.key()).pin == first.pin
    assert "ca_seed" not in repr(told)
