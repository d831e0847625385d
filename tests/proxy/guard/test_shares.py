"""Several proxies under one global rate limit, in virtual time."""

from typing import cast

import trio
import trio.testing

from overlay.calls import Caller, CallRefused
from overlay.identity import Identity
from overlay.names import PeerId, ServiceName
from overlay.quota import VALID_S, Quota
from overlay.records import PeerRecord, Role, Version, sign_record
from overlay.spec import RateLimit
from overlay.testing import empty_view, meet
from overlay.view import View
from proxy.guard.shares import ASK_TIMEOUT_S, Counter, Shares
from proxy.testing import PlayedCounter

HELLO = ServiceName("hello")
NOW = 1_700_000_000.0


async def flood(shares: Shares, limit: RateLimit, rate: float, for_s: float) -> list[float]:
    """Send requests at a rate; return when those that were let through were."""
    times = []
    end = trio.current_time() + for_s
    while trio.current_time() < end:
        if await shares.take(HELLO, limit) == 0:
            times.append(trio.current_time())
        await trio.sleep(1 / rate)
    return times


async def all_of(proxies: list[Shares], limit: RateLimit, rate: float, for_s: float) -> list[float]:
    passed: list[float] = []

    async def one(shares: Shares) -> None:
        passed.extend(await flood(shares, limit, rate, for_s))

    async with trio.open_nursery() as nursery:
        for shares in proxies:
            nursery.start_soon(one, shares)
    return sorted(passed)


def most_within(times: list[float], span_s: float) -> int:
    return max(sum(t <= u < t + span_s for u in times) for t in times)


async def test_many_proxies_share_one_budget_within_the_stated_error(
    autojump_clock: trio.testing.MockClock,
) -> None:
    limit = RateLimit(per_s=100, burst=20)
    counter = PlayedCounter(limit)
    proxies = [Shares(counter.ask, lambda: 5) for _ in range(5)]
    passed = await all_of(proxies, limit, 100.0, 10.0)
    for span_s in (0.5, 1.0, 3.0):
        assert most_within(passed, span_s) <= limit.burst + limit.per_s * (span_s + VALID_S)
    assert len(passed) <= limit.burst + limit.per_s * (10 + VALID_S)
    assert len(passed) >= 0.9 * limit.per_s * 10, "what may pass does"


async def test_one_busy_proxy_gets_all_of_it(autojump_clock: trio.testing.MockClock) -> None:
    limit = RateLimit(per_s=100, burst=20)
    counter = PlayedCounter(limit)
    idle, busy = (Shares(counter.ask, lambda: 2) for _ in range(2))
    assert await idle.take(HELLO, limit) == 0
    passed = await all_of([busy], limit, 1000.0, 10.0)
    assert 0.9 * 1000 <= len(passed) <= 20 + 100 * (10 + VALID_S)
    assert counter.asked <= 10 * 10 * 2 + 2, "two calls for each tenth of a second"


async def test_requests_that_wait_for_a_share_ask_once_together(
    autojump_clock: trio.testing.MockClock,
) -> None:
    limit = RateLimit(per_s=100, burst=20)
    counter = PlayedCounter(limit)
    shares, passed = Shares(counter.ask, lambda: 1), list[float]()

    async def ask() -> None:
        passed.append(await shares.take(HELLO, limit))

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(ask)
    assert passed == [0.0] * 10
    assert counter.asked == 1


async def test_over_the_rate_a_proxy_is_told_how_long_to_wait_and_does_not_ask_before(
    autojump_clock: trio.testing.MockClock,
) -> None:
    limit = RateLimit(per_s=1, burst=1)
    counter = PlayedCounter(limit)
    shares = Shares(counter.ask, lambda: 1)
    assert await shares.take(HELLO, limit) == 0
    assert await shares.take(HELLO, limit) == 1.0
    assert counter.asked == 2
    await trio.sleep(0.5)
    assert await shares.take(HELLO, limit) == 0.5
    assert counter.asked == 2
    await trio.sleep(0.5)
    assert await shares.take(HELLO, limit) == 0


async def test_without_an_answer_each_proxy_goes_by_its_part_and_asks_again_later(
    autojump_clock: trio.testing.MockClock,
) -> None:
    limit = RateLimit(per_s=100, burst=20)
    counter = PlayedCounter(limit)
    counter.answers = False
    proxies = [Shares(counter.ask, lambda: 4) for _ in range(4)]
    passed = await all_of(proxies, limit, 100.0, 5.0)
    assert 0.9 * 500 <= len(passed) <= 20 + 100 * 5 + 4
    assert counter.asked <= 4 * 6
    counter.answers = True
    await trio.sleep(VALID_S)
    assert await proxies[0].take(HELLO, limit) == 0
    assert counter.asked > 4 * 5


async def test_what_is_used_no_more_is_forgotten(autojump_clock: trio.testing.MockClock) -> None:
    limit = RateLimit(per_s=100, burst=20)
    shares = Shares(PlayedCounter(limit).ask, lambda: 1)
    await shares.take(HELLO, limit)
    shares.forget()
    assert shares._shares
    await trio.sleep(VALID_S + 0.1)
    shares.forget()
    assert not shares._shares


class Calls:
    """Answers quota calls of anybody, or refuses them; keeps whom they were for."""

    def __init__(self) -> None:
        self.asked: list[PeerId] = []
        self.refuses = False

    async def call(self, peer: PeerId, *_: object, timeout_s: float) -> Quota:
        assert timeout_s == ASK_TIMEOUT_S
        self.asked.append(peer)
        if self.refuses:
            raise CallRefused("no_limit", "there is no limit here")
        return Quota(granted=1)


def view_of(me: Identity, peers: dict[Identity, Role]) -> View:
    view = empty_view(me, "here")
    for peer, role in peers.items():
        record = PeerRecord(version=Version(epoch=NOW, counter=0), role=role, host="h")
        view.apply(sign_record(peer, record), NOW)
        if peer is not me:
            meet(view, peer.peer_id, NOW)
    return view


async def test_all_proxies_ask_the_same_allocator_and_another_one_when_that_is_gone() -> None:
    proxies = [Identity.from_seed(bytes([n]) * 32) for n in (1, 2)]
    allocators = [Identity.from_seed(bytes([n]) * 32) for n in (3, 4, 5)]
    peers = dict.fromkeys(proxies, Role.PROXY) | dict.fromkeys(allocators, Role.ALLOCATOR)
    calls = Calls()
    for me in proxies:
        counter = Counter(view_of(me, peers), cast("Caller", calls))
        assert await counter.ask(HELLO, 1) == Quota(granted=1)
        assert counter.proxies() == 2
    first, same = calls.asked
    assert first == same
    left = {peer: role for peer, role in peers.items() if peer.peer_id != first}
    await Counter(view_of(proxies[0], left), cast("Caller", calls)).ask(HELLO, 1)
    assert calls.asked[-1] not in {first, *(p.peer_id for p in proxies)}


async def test_nobody_to_ask_or_a_refusal_is_no_answer() -> None:
    me, allocator = (Identity.from_seed(bytes([n]) * 32) for n in (1, 3))
    calls = Calls()
    nobody = Counter(view_of(me, {me: Role.PROXY}), cast("Caller", calls))
    assert await nobody.ask(HELLO, 1) is None
    calls.refuses = True
    one = Counter(view_of(me, {me: Role.PROXY, allocator: Role.ALLOCATOR}), cast("Caller", calls))
    assert await one.ask(HELLO, 1) is None
    assert calls.asked == [allocator.peer_id]
