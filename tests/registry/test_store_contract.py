"""What every store promises, held against each of them; etcd is a real one."""

from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest
import trio

from overlay.identity import Identity
from overlay.names import ServiceName
from overlay.revision import SignedRevision
from registry import store as limits
from registry.errors import NoSuchService, NotOwner, RevisionConflict, StoreFull
from registry.store import Change, Store
from registry.testing import MakeRevision, OpenStore

HELLO = ServiceName("hello")


@pytest.fixture(autouse=True)
async def _bound() -> AsyncIterator[None]:
    with trio.fail_after(60):
        yield


async def test_what_was_added_can_be_got_listed_and_looked_back_on(
    open_store: OpenStore, revision: MakeRevision
) -> None:
    first, second = revision(number=1), revision(number=2, command="false")
    async with open_store(None) as store:
        one = await store.add(first)
        two = await store.add(second)
        listing = await store.listing()
        assert two > one
        assert await store.get(HELLO) == second
        assert listing.revisions == (second,)
        assert listing.store_revision >= two
        assert await store.history(HELLO) == (first, second)


async def test_a_name_that_was_never_added_is_none(open_store: OpenStore) -> None:
    async with open_store(None) as store:
        assert await store.get(HELLO) is None
        assert await store.history(HELLO) == ()
        assert (await store.listing()).revisions == ()


@pytest.mark.parametrize("number", [1, 3])
async def test_only_the_next_number_is_taken(
    open_store: OpenStore, revision: MakeRevision, number: int
) -> None:
    async with open_store(None) as store:
        await store.add(revision(number=1))
        with pytest.raises(RevisionConflict) as refused:
            await store.add(revision(number=number, command="false"))
        assert refused.value.newest == 1


async def test_adding_the_newest_revision_again_changes_nothing(
    open_store: OpenStore, revision: MakeRevision
) -> None:
    first = revision()
    async with open_store(None) as store:
        assert await store.add(first) == await store.add(first)
        assert await store.history(HELLO) == (first,)


async def test_a_name_belongs_to_the_key_that_added_it(
    open_store: OpenStore, revision: MakeRevision, alice: Identity, bob: Identity
) -> None:
    async with open_store(None) as store:
        await store.add(revision())
        with pytest.raises(NotOwner) as refused:
            await store.add(revision(number=2, owner=bob))
        assert refused.value.owner == alice.peer_id


async def test_an_editor_and_the_admin_may_add_but_the_owner_stays(
    open_store: OpenStore, revision: MakeRevision, alice: Identity, bob: Identity
) -> None:
    admin = Identity.generate()
    async with open_store(admin.peer_id) as store:
        await store.add(revision(editors=(bob.peer_id,)))
        await store.add(revision(number=2, owner=bob, command="by-bob"))
        with pytest.raises(NotOwner):
            await store.add(revision(number=3, owner=bob))
        await store.add(revision(number=3, owner=admin, command="by-admin"))
        await store.add(revision(number=4, owner=alice))


async def test_a_deleted_name_is_free_and_its_numbers_go_on(
    open_store: OpenStore, revision: MakeRevision, bob: Identity
) -> None:
    deletion = revision(number=2, command=None)
    async with open_store(None) as store:
        await store.add(revision())
        await store.add(deletion)
        assert (await store.listing()).revisions == ()
        assert await store.get(HELLO) == deletion
        with pytest.raises(NoSuchService):
            await store.add(revision(number=3, command=None))
        with pytest.raises(RevisionConflict):
            await store.add(revision(number=1, owner=bob))
        await store.add(revision(number=3, owner=bob))
        with pytest.raises(NotOwner):
            await store.add(revision(number=4))


async def test_of_concurrent_adds_of_one_name_exactly_one_wins(
    open_store: OpenStore, revision: MakeRevision
) -> None:
    outcomes: list[int | RevisionConflict] = []

    async def add(store: Store, offered: SignedRevision) -> None:
        try:
            outcomes.append(await store.add(offered))
        except RevisionConflict as exc:
            outcomes.append(exc)

    async with open_store(None) as store:
        async with trio.open_nursery() as nursery:
            for n in range(8):
                nursery.start_soon(add, store, revision(command=f"run {n}"))
        assert sum(isinstance(outcome, int) for outcome in outcomes) == 1
        assert len(await store.history(HELLO)) == 1


async def test_concurrent_adds_of_different_names_all_get_in(
    open_store: OpenStore, revision: MakeRevision
) -> None:
    async with open_store(None) as store:
        async with trio.open_nursery() as nursery:
            for n in range(8):
                nursery.start_soon(store.add, revision(f"svc-{n}"))
        assert len((await store.listing()).revisions) == 8


async def test_names_that_begin_alike_are_kept_apart(
    open_store: OpenStore, revision: MakeRevision
) -> None:
    names = ["hello", "hello.a", "hello-a", "hello:1.0", "hell"]
    async with open_store(None) as store:
        for name in names:
            await store.add(revision(name))
        for name in names:
            assert len(await store.history(ServiceName(name))) == 1


async def test_a_listing_is_ordered_by_name_and_goes_over_many_pages(
    open_store: OpenStore, revision: MakeRevision
) -> None:
    names = [f"svc-{n:03}" for n in range(60)]
    async with open_store(None) as store:
        for name in reversed(names):
            await store.add(revision(name))
        assert [r.revision.name for r in (await store.listing()).revisions] == names


async def test_a_watch_gives_what_was_and_what_comes_in_order(
    open_store: OpenStore, revision: MakeRevision
) -> None:
    offered = [revision("a"), revision("b"), revision("a", 2), revision("b", 2, command=None)]
    async with open_store(None) as store:
        numbers = [await store.add(r) for r in offered[:2]]
        async with trio.open_nursery() as nursery, aclosing(store.watch(0)) as changes:
            seen = [await anext(changes), await anext(changes)]

            async def add_the_rest() -> None:
                numbers.extend([await store.add(r) for r in offered[2:]])

            nursery.start_soon(add_the_rest)
            seen += [await anext(changes), await anext(changes)]
        assert seen == [Change(n, r) for n, r in zip(numbers, offered, strict=True)]


async def test_a_watch_resumes_after_the_revision_it_is_given(
    open_store: OpenStore, revision: MakeRevision
) -> None:
    async with open_store(None) as store:
        first = await store.add(revision())
        second = await store.add(revision(number=2))
        async with aclosing(store.watch(first)) as changes:
            assert (await anext(changes)).store_revision == second


async def test_a_watch_from_the_listing_on_misses_nothing(
    open_store: OpenStore, revision: MakeRevision
) -> None:
    async with open_store(None) as store:
        await store.add(revision("before"))
        listing = await store.listing()
        after = await store.add(revision("after"))
        async with aclosing(store.watch(listing.store_revision)) as changes:
            assert await anext(changes) == Change(after, revision("after"))


async def test_old_history_is_pruned_and_a_watch_still_gets_the_newest(
    open_store: OpenStore, revision: MakeRevision, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("registry.sqlite.HISTORY_KEPT", 3)
    monkeypatch.setattr("registry.etcd.HISTORY_KEPT", 3)
    async with open_store(None) as store:
        for number in range(1, 6):
            await store.add(revision(number=number))
        kept = await store.history(HELLO)
        assert [r.revision.number for r in kept] == [3, 4, 5]


async def test_the_limits_on_services_and_bytes_are_kept(
    open_store: OpenStore, revision: MakeRevision, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MAX_DEFINITIONS", 2)
    async with open_store(None) as store:
        await store.add(revision("a"))
        await store.add(revision("b"))
        with pytest.raises(StoreFull, match="2 services"):
            await store.add(revision("c"))
        await store.add(revision("a", 2, command=None))
        await store.add(revision("c"))
        monkeypatch.setattr(limits, "MAX_DEFINITION_BYTES", 1000)
        with pytest.raises(StoreFull, match="1000"):
            await store.add(revision("c", 2, command="x" * 2000))
        await store.add(revision("c", 2, command=None))


async def test_a_store_has_an_id_of_its_own(open_store: OpenStore) -> None:
    async with open_store(None) as one, open_store(None) as other:
        assert one.store_id != other.store_id


async def test_what_comes_back_is_verified_and_byte_for_byte_what_went_in(
    open_store: OpenStore, revision: MakeRevision
) -> None:
    offered = revision(command="x" * 4000)
    async with open_store(None) as store:
        await store.add(offered)
        got = await store.get(HELLO)
        assert isinstance(got, SignedRevision)
        assert got.to_json() == offered.to_json()
