"""What watchers are told: what they missed if that is still known, and else everything."""

from pathlib import Path

import pytest
import trio

from overlay.registry_messages import MAX_PAGE_BYTES, MAX_PAGE_REVISIONS
from registry import feed as subject
from registry.feed import Feed, pages
from registry.sqlite import open_sqlite
from registry.testing import MakeRevision


async def test_it_begins_with_everything_and_goes_on_with_changes(
    tmp_path: Path, revision: MakeRevision
) -> None:
    async with open_sqlite(tmp_path / "r.sqlite3", admin=None) as store:
        first = await store.add(revision("a"))
        feed = Feed(store)
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                await nursery.start(feed.run)
                assert (feed.names(), feed.head) == (["a"], first)
                await store.add(revision("b"))
                await feed.changed()
                await store.add(revision("a", 2, command=None))
                await feed.changed()
                nursery.cancel_scope.cancel()
        assert feed.names() == ["b"]
        missed = feed.since(first)
        assert missed is not None
        assert [c.revision for c in missed] == [revision("b"), revision("a", 2, command=None)]
        assert feed.since(feed.head) == ()


async def test_who_was_away_for_too_long_gets_everything(
    tmp_path: Path, revision: MakeRevision, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subject, "CHANGES_KEPT", 2)
    async with open_sqlite(tmp_path / "r.sqlite3", admin=None) as store:
        feed = Feed(store)
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                await nursery.start(feed.run)
                for number in range(1, 6):
                    await store.add(revision(number=number))
                    while feed.head < number:
                        await feed.changed()
                nursery.cancel_scope.cancel()
        assert feed.since(2) is None
        kept = feed.since(3)
        assert kept is not None
        assert [c.revision.revision.number for c in kept] == [4, 5]
        (page,) = feed.snapshot()
        assert page.snapshot
        assert page.complete
        assert len(page.revisions) == 1


def test_pages_are_bounded_and_only_the_last_is_complete(revision: MakeRevision) -> None:
    many = [revision(f"svc-{n}") for n in range(2 * MAX_PAGE_REVISIONS + 1)]
    sent = list(pages("s", 7, many, snapshot=True))
    assert [len(p.revisions) for p in sent] == [MAX_PAGE_REVISIONS, MAX_PAGE_REVISIONS, 1]
    assert [p.complete for p in sent] == [False, False, True]
    assert all(p.snapshot and p.store_revision == 7 for p in sent)


def test_large_revisions_make_small_pages(revision: MakeRevision) -> None:
    large = [revision(f"svc-{n}", command="x" * 4000) for n in range(90)]
    sizes = [
        sum(len(signed.model_dump_json()) for signed in page.revisions)
        for page in pages("s", 1, large * 4)
    ]
    assert len(sizes) > 1
    assert max(sizes) <= MAX_PAGE_BYTES


def test_nothing_at_all_is_one_empty_page() -> None:
    (page,) = pages("s", 0, [], snapshot=True)
    assert page.complete
    assert page.revisions == ()
