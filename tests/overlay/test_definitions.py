"""The replica of definitions: what it takes in, what it keeps, and whom it makes wait."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from overlay import definitions as subject
from overlay.calls import CallRefused
from overlay.definitions import Definitions, RegistryUnreachable, Replica, UnknownService
from overlay.errors import MyxoError, PeerUnreachable, SignatureInvalid
from overlay.identity import Identity
from overlay.lookups import CLIENT_BURST, HINT_BURST
from overlay.membership import MemberState
from overlay.names import PeerId, ServiceName
from overlay.passphrase import NetworkKeys
from overlay.records import PeerRecord, Role, Version
from overlay.registry_messages import Found, Get, Page, Watch
from overlay.revision import Revision, SignedRevision
from overlay.signed import Signed
from overlay.spec import ServiceSpec
from overlay.view import PeerView

ALICE = Identity.from_seed(b"a" * 32)
HELLO = ServiceName("hello")
ME = PeerId("me")


def _revision(name: str = "hello", number: int = 1, command: str | None = "true") -> SignedRevision:
    spec = None if command is None else ServiceSpec(process=command)
    content = Revision(name=ServiceName(name), number=number, spec=spec)
    return SignedRevision.sign(ALICE, content)


def _page(*revisions: SignedRevision, at: int = 1, **fields: Any) -> Page:
    signed = tuple(r.signed for r in revisions)
    return Page(store="s", store_revision=at, revisions=signed, **fields)


def test_the_newest_revision_wins_in_whatever_order_they_come() -> None:
    replica = Replica()
    assert replica.take(_revision(number=2))
    assert not replica.take(_revision(number=1))
    assert replica.get(HELLO) == _revision(number=2)


def test_a_deleted_service_is_gone_and_an_older_revision_does_not_bring_it_back() -> None:
    replica = Replica()
    replica.take(_revision(number=2))
    assert replica.take(_revision(number=3, command=None))
    assert replica.get(HELLO) is None
    assert not replica.take(_revision(number=2))
    assert replica.take(_revision(number=4))
    assert replica.names() == [HELLO]


def test_a_deletion_is_remembered_until_the_service_is_there_again() -> None:
    replica = Replica()
    replica.take(_revision(number=1))
    assert not replica.deleted(HELLO)
    replica.take(_revision(number=2, command=None))
    assert replica.deleted(HELLO)
    replica.take(_revision(number=3))
    assert not replica.deleted(HELLO)
    assert not replica.deleted(ServiceName("never-heard-of"))


def test_no_more_deletions_are_remembered_than_services(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "MAX_DEFINITIONS", 2)
    replica = Replica()
    for name in ("a", "b", "c"):
        replica.take(_revision(name, number=2, command=None))
    assert [replica.deleted(ServiceName(n)) for n in ("a", "b", "c")] == [False, True, True]


def test_a_snapshot_replaces_everything_at_its_last_page_and_not_before() -> None:
    replica = Replica()
    replica.take_page(_page(_revision("old"), at=5))
    assert not replica.take_page(_page(_revision("a"), at=9, snapshot=True, complete=False))
    assert replica.names() == ["old"]
    assert (replica.store, replica.store_revision) == ("s", 5)
    assert replica.take_page(_page(_revision("b"), at=9, snapshot=True))
    assert sorted(replica.names()) == ["a", "b"]
    assert replica.store_revision == 9


def test_within_one_store_a_snapshot_cannot_bring_an_old_revision_back() -> None:
    replica = Replica()
    replica.take_page(_page(_revision(number=3), at=5))
    replica.take_page(_page(_revision(number=2), _revision("b"), at=9, snapshot=True))
    assert replica.get(HELLO) == _revision(number=3)
    assert sorted(replica.names()) == ["b", "hello"]


def test_half_a_snapshot_is_forgotten_when_the_watch_begins_anew() -> None:
    replica = Replica()
    replica.take_page(_page(_revision("a"), snapshot=True, complete=False))
    replica.begin()
    replica.take_page(_page(_revision("b"), snapshot=True))
    assert replica.names() == ["b"]


def test_a_heartbeat_is_no_news() -> None:
    replica = Replica()
    replica.take_page(_page(_revision()))
    assert not replica.take_page(_page(at=7))
    assert replica.store_revision == 7


def test_what_no_owner_signed_is_refused() -> None:
    forged = Signed(signer=ALICE.peer_id, payload=_revision().signed.payload, signature=b"x" * 64)
    replica = Replica()
    with pytest.raises(SignatureInvalid):
        replica.take_page(Page(store="s", revisions=(forged,)))
    assert replica.names() == []


def test_it_is_bounded_in_number_and_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "MAX_DEFINITIONS", 2)
    replica = Replica()
    for name in ("a", "b", "c"):
        replica.take(_revision(name))
    assert replica.names() == ["a", "b"]
    monkeypatch.setattr(subject, "MAX_DEFINITION_BYTES", 1000)
    replica.take(_revision("a", 2, "x" * 2000))
    replica.take(_revision("b", 2))
    assert replica.names() == ["b"]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=20))
def test_pages_and_single_revisions_agree_with_a_plain_dictionary(
    changes: list[tuple[str, bool]],
) -> None:
    numbers = dict.fromkeys("abc", 0)
    plain: dict[str, SignedRevision] = {}
    replica = Replica()
    for at, (name, deletes) in enumerate(changes, 1):
        numbers[name] += 1
        revision = _revision(name, numbers[name], None if deletes else f"run {at}")
        plain.pop(name, None)
        if not deletes:
            plain[name] = revision
        replica.take_page(_page(revision, at=at))
        assert {n: replica.get(n) for n in replica.names()} == plain


# the daemon's side


@dataclass
class FakeCalls:
    """Registry peers that answer from what a test gives them."""

    answers: dict[PeerId, SignedRevision | Exception] = field(default_factory=dict)
    asked: list[PeerId] = field(default_factory=list)
    gate: trio.Event = field(default_factory=trio.Event)
    streams: dict[PeerId, trio.MemoryReceiveChannel[Page]] = field(default_factory=dict)

    async def call(self, peer: PeerId, _: str, __: Get, ___: type, *, timeout_s: float) -> Found:
        del timeout_s
        self.asked.append(peer)
        await self.gate.wait()
        answer = self.answers[peer]
        if isinstance(answer, Exception):
            raise answer
        return Found(revision=answer.signed)

    @asynccontextmanager
    async def stream(
        self, peer: PeerId, _: str, watch: Watch, ___: type
    ) -> AsyncIterator[AsyncIterator[Page]]:
        del watch
        self.asked.append(peer)
        if peer not in self.streams:
            raise PeerUnreachable("gone")
        yield self.streams[peer]


@dataclass
class FakeNode:
    """A node that sees the registry peers that a test gives it, in that order."""

    calls: Any
    registries: list[str]
    peer_id: PeerId = ME
    keys: NetworkKeys = field(default=NetworkKeys(None, b"", "net", "net", b"", b""))

    @property
    def view(self) -> "FakeNode":
        return self

    def peers(self, role: Role | None = None) -> list[PeerView]:
        assert role is Role.REGISTRY
        version = Version(epoch=0, counter=0)
        record = PeerRecord(version=version, role=Role.REGISTRY, host="h")
        return [
            PeerView(PeerId(p), record, MemberState.ALIVE, None, local=False)
            for p in self.registries
        ]

    async def changed(self) -> None:
        await trio.sleep_forever()


async def test_the_next_registry_is_asked_where_one_does_not_answer(
    autojump_clock: trio.testing.MockClock,
) -> None:
    del autojump_clock
    calls = FakeCalls({PeerId("a"): PeerUnreachable("gone"), PeerId("b"): _revision()})
    calls.gate.set()
    definitions = Definitions(FakeNode(calls, ["a", "b"]), None)
    assert await definitions.resolve(HELLO) == _revision()
    assert await definitions.resolve(HELLO) == _revision()
    assert calls.asked == ["a", "b"]


async def test_a_registry_that_says_no_is_believed_and_one_that_cannot_say_is_not() -> None:
    no = CallRefused("unknown", "no")
    cannot = CallRefused("unavailable", "etcd is gone")
    calls = FakeCalls({PeerId("a"): cannot, PeerId("b"): no})
    calls.gate.set()
    with pytest.raises(UnknownService):
        await Definitions(FakeNode(calls, ["a", "b"]), None).resolve(HELLO)
    with pytest.raises(RegistryUnreachable) as unreachable:
        await Definitions(FakeNode(calls, ["a"]), None).resolve(HELLO)
    assert unreachable.value.retry_after_s > 0
    with pytest.raises(RegistryUnreachable):
        await Definitions(FakeNode(calls, []), None).resolve(HELLO)


async def test_an_answer_about_another_service_or_a_deleted_one_is_no_answer() -> None:
    for answer in (_revision("other"), _revision(command=None)):
        calls = FakeCalls({PeerId("a"): answer})
        calls.gate.set()
        with pytest.raises(UnknownService):
            await Definitions(FakeNode(calls, ["a"]), None).resolve(HELLO)


async def test_who_waits_for_an_asker_that_gives_up_asks_itself(
    autojump_clock: trio.testing.MockClock,
) -> None:
    del autojump_clock
    calls = FakeCalls({PeerId("a"): _revision()})
    definitions = Definitions(FakeNode(calls, ["a"]), None)
    found: list[SignedRevision] = []

    async def patient() -> None:
        found.append(await definitions.resolve(HELLO))

    async with trio.open_nursery() as nursery:
        with trio.move_on_after(1):
            nursery.start_soon(patient)
            async with trio.open_nursery() as impatient:
                impatient.start_soon(definitions.resolve, HELLO)
        calls.gate.set()
    assert found == [_revision()]


def _names(count: int) -> list[ServiceName]:
    return [ServiceName(f"made-up-{n}") for n in range(count)]


async def _outcomes(definitions: Definitions, names: list[ServiceName], client: str) -> list[str]:
    """Ask for all of them, one after the other, and return how each ended."""
    ended = []
    for name in names:
        try:
            await definitions.resolve(name, client)
        except MyxoError as exc:
            ended.append(type(exc).__name__)
        else:
            ended.append("found")
    return ended


@asynccontextmanager
async def _live(calls: FakeCalls) -> AsyncIterator[tuple[Definitions, Callable[..., None]]]:
    """Yield a replica with a living watch that brought `hello`, and what sends more pages."""
    send, receive = trio.open_memory_channel[Page](10)
    calls.streams[PeerId("a")] = receive
    calls.gate.set()
    definitions = Definitions(FakeNode(calls, ["a"]), None)
    async with trio.open_nursery() as nursery:
        await nursery.start(definitions.run)
        send.send_nowait(_page(_revision(), snapshot=True))
        await definitions.changed()
        calls.asked.clear()
        yield definitions, send.send_nowait
        nursery.cancel_scope.cancel()


async def test_a_thousand_made_up_names_cost_a_bounded_number_of_calls_and_nobody_else_anything(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[str] = []

    def near_names(name: ServiceName, _: list[ServiceName]) -> list[ServiceName]:
        compared.append(name)
        return []

    monkeypatch.setattr(subject, "near_names", near_names)
    calls = FakeCalls({PeerId("a"): CallRefused("unknown", "no")})
    async with _live(calls) as (definitions, _):
        ended = await _outcomes(definitions, _names(1000), "mad")
        assert ended.count("UnknownService") == len(calls.asked) == CLIENT_BURST
        assert ended.count("LookupsBusy") == 1000 - CLIENT_BURST
        assert len(compared) == HINT_BURST
        assert await _outcomes(definitions, [HELLO], "mad") == ["found"]
        calls.answers[PeerId("a")] = _revision("new")
        assert await _outcomes(definitions, [ServiceName("new")], "sane") == ["found"]
        assert len(calls.asked) == CLIENT_BURST + 1


async def test_the_same_made_up_name_is_asked_for_once_and_found_when_it_is_added(
    autojump_clock: trio.testing.MockClock,
) -> None:
    calls = FakeCalls({PeerId("a"): CallRefused("unknown", "no")})
    new = ServiceName("new")
    async with _live(calls) as (definitions, send):
        assert await _outcomes(definitions, [new] * 100, "") == ["UnknownService"] * 100
        assert len(calls.asked) == 1
        send(_page(_revision("new"), at=2))
        await definitions.changed()
        assert await _outcomes(definitions, [new], "") == ["found"]
        assert len(calls.asked) == 1


async def test_who_has_a_reason_to_doubt_a_no_asks_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    calls = FakeCalls({PeerId("a"): CallRefused("unknown", "no")})
    new = ServiceName("new")
    async with _live(calls) as (definitions, _):
        assert await _outcomes(definitions, [new], "") == ["UnknownService"]
        calls.answers[PeerId("a")] = _revision("new")
        assert await _outcomes(definitions, [new], "") == ["UnknownService"]
        assert await definitions.resolve(new, ask_again=True) == _revision("new")


async def test_without_a_living_watch_no_answer_is_remembered() -> None:
    calls = FakeCalls({PeerId("a"): CallRefused("unknown", "no")})
    calls.gate.set()
    definitions = Definitions(FakeNode(calls, ["a"]), None)
    assert await _outcomes(definitions, [HELLO] * 3, "") == ["UnknownService"] * 3
    assert len(calls.asked) == 3


async def test_a_silent_watch_is_left_for_the_next_registry(
    autojump_clock: trio.testing.MockClock,
) -> None:
    del autojump_clock
    silent = trio.open_memory_channel[Page](1)
    talking = trio.open_memory_channel[Page](1)
    calls = FakeCalls(streams={PeerId("a"): silent[1], PeerId("b"): talking[1]})
    definitions = Definitions(FakeNode(calls, ["a", "b"]), None)
    talking[0].send_nowait(_page(_revision(), snapshot=True))
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        await nursery.start(definitions.run)
        assert not definitions.live
        await definitions.changed()
        assert definitions.live
        assert trio.current_time() - began == subject.SILENCE_S
        nursery.cancel_scope.cancel()
    assert definitions.get(HELLO) == _revision()


async def test_the_replica_is_on_disk_for_the_next_start(tmp_path: Path) -> None:
    send, receive = trio.open_memory_channel[Page](1)
    node = FakeNode(FakeCalls(streams={PeerId("a"): receive}), ["a"])
    definitions = Definitions(node, tmp_path)
    async with trio.open_nursery() as nursery:
        await nursery.start(definitions.run)
        send.send_nowait(_page(_revision(), _revision("other"), snapshot=True, at=5))
        await definitions.changed()
        nursery.cancel_scope.cancel()
    again = Definitions(node, tmp_path)
    assert again.get(HELLO) == _revision()
    assert sorted(again.names()) == ["hello", "other"]
    other_network = FakeNode(
        node.calls, [], keys=NetworkKeys(None, b"", "other", "other", b"", b"")
    )
    assert Definitions(other_network, tmp_path).names() == []


@pytest.mark.parametrize("damage", [b"", b"{", b"\xff\xfe", b'{"store":"s","store_revision":1}\nx'])
async def test_a_damaged_file_is_no_reason_not_to_start(tmp_path: Path, damage: bytes) -> None:
    node = FakeNode(FakeCalls(), [])
    file = tmp_path / "definitions" / "net-me.jsonl"
    file.parent.mkdir()
    file.write_bytes(damage)
    assert Definitions(node, tmp_path).names() == []
