from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allocator.serving.offers import Held
from overlay.allocation import Offer, OfferRequest
from overlay.membership import MemberState
from overlay.names import PeerId, ServiceName
from overlay.records import PeerRecord, Role, Room, Version
from overlay.spec import ServiceSpec
from overlay.view import Distance, PeerView
from proxy.ranking.limits import RttLimits
from proxy.ranking.offers import (
    ASKED,
    CLOSE_S,
    PATIENCE_S,
    contenders,
    in_words,
    offer_s,
    order,
    patience_s,
)
from proxy.ranking.placement import UNOBSERVED, Ranking, Site, rank

SPEC = ServiceSpec(process="serve", cpu_millicores=100, memory_mib=10)
ROOM = Room(cpu_millicores=4000, memory_mib=4000, instances=50)
CALLERS = 20


def machine(name: str, rtt_s: float = 0.001, *, room: Room = ROOM, local: bool = False) -> PeerView:
    record = PeerRecord(
        version=Version(epoch=1.0, counter=1),
        role=Role.ALLOCATOR,
        host=name,
        runtimes=("process",),
        room=room,
    )
    distance = Distance(rtt_s, 0.0, measured=True)
    return PeerView(PeerId(name), record, MemberState.ALIVE, distance, local)


def ranked(*machines: PeerView) -> Ranking:
    return rank(machines, SPEC, RttLimits(), {})


def names(sites: tuple[Site, ...] | list[Site]) -> list[str]:
    return [site.allocator.peer_id for site in sites]


def test_a_clearly_best_machine_and_the_own_one_are_not_asked_for_an_offer() -> None:
    far = machine("far", 0.02)
    assert contenders(ranked(machine("near"), far), Random(1)) == ()
    assert contenders(ranked(machine("own", local=True), machine("b")), Random(1)) == ()
    assert contenders(ranked(machine("only")), Random(1)) == ()
    assert contenders(ranked(), Random(1)) == ()


def test_the_best_is_always_asked_and_the_others_are_drawn() -> None:
    ranking = ranked(*(machine(f"m{n}", 0.001 + n / 10_000) for n in range(8)))
    drawn = [names(contenders(ranking, Random(seed))) for seed in range(50)]
    assert all(asked[0] == "m0" and len(asked) == ASKED for asked in drawn)
    assert set().union(*drawn) == {f"m{n}" for n in range(8)}


def test_a_roomier_machine_is_no_clear_best_because_others_see_it_too() -> None:
    tight = Room(cpu_millicores=100, memory_mib=10, instances=1)
    ranking = ranked(machine("roomy"), machine("tight", room=tight))
    assert len(contenders(ranking, Random(1))) == 2


def test_nobody_is_waited_for_longer_than_could_be_saved() -> None:
    near, far = ranked(machine("near"), machine("far", 0.004)).sites
    assert patience_s([], [near]) == 0.0
    assert patience_s([0.05], []) == 0.0
    could_save_s = 0.15 - (far.cost.total_s - far.cost.room_s - far.cost.start_s)
    assert patience_s([0.15], [far]) == pytest.approx(could_save_s)
    assert patience_s([0.01], [far]) == 0.0
    assert patience_s([5.0], [far]) == PATIENCE_S


def test_the_offers_decide_and_who_did_not_answer_or_was_not_asked_comes_later() -> None:
    ranking = ranked(*(machine(name) for name in ("a", "b", "c", "d")))
    offers = {
        PeerId("a"): Offer(room=ROOM, ahead=5),
        PeerId("b"): Offer(room=ROOM, ahead=0),
    }
    asked = {PeerId("a"), PeerId("b"), PeerId("c")}
    assert names(order(ranking, asked, offers, SPEC, UNOBSERVED)) == ["b", "c", "a", "d"]


def test_who_offers_no_room_comes_last_and_who_has_an_instance_first() -> None:
    ranking = ranked(*(machine(name) for name in ("a", "b", "c")))
    nothing = Room(cpu_millicores=0, memory_mib=0, instances=0)
    offers = {
        PeerId("a"): Offer(room=nothing, ahead=1),
        PeerId("b"): Offer(room=nothing, ahead=9, ready=True),
    }
    assert names(order(ranking, offers.keys(), offers, SPEC, UNOBSERVED)) == ["b", "c", "a"]


def test_a_paused_instance_is_nearly_as_good_as_one_that_is_ready() -> None:
    (site,) = ranked(machine("a")).sites
    costs = [
        offer_s(site, offer, SPEC, UNOBSERVED)
        for offer in (
            Offer(room=ROOM, ready=True),
            Offer(room=ROOM, resume_s=0.02),
            Offer(room=ROOM),
            Offer(room=ROOM, ahead=1),
        )
    ]
    assert costs == sorted(costs)


def test_an_offer_is_shown_in_words() -> None:
    offer = Offer(room=ROOM, ahead=2, starting=True, resume_s=0.02, image=False)
    assert in_words(offer) == (
        "4000 millicores and 4000 MiB, 2 before it, "
        "a start under way, a paused one, 20 ms, no image"
    )


# callers with one old view


def placed(views: list[PeerView], seed: int, *, ask: bool) -> Counter[str]:
    """Where callers with the same view start a service of their own each, all in one moment.

    All questions are on the way before any start is, in a random order, as are the starts.
    """
    random = Random(seed)
    ranking = ranked(*views)
    asked = [contenders(ranking, random) if ask else () for _ in range(CALLERS)]
    held = {view.peer_id: Held() for view in views}
    offers: list[dict[PeerId, Offer]] = [{} for _ in range(CALLERS)]
    for caller, site in _shuffled(asked, random):
        peer = site.allocator.peer_id
        request = OfferRequest(
            service=ServiceName(f"s{caller}"), revision=1, cpu_millicores=100, memory_mib=10
        )
        room, ahead = held[peer].offer(PeerId(f"caller{caller}"), request, ROOM, 0.0)
        offers[caller][peer] = Offer(room=room, ahead=ahead)
    return Counter(
        order(ranking, offers[caller].keys(), offers[caller], SPEC, UNOBSERVED)[0].allocator.peer_id
        for caller in range(CALLERS)
    )


def _shuffled(asked: list[tuple[Site, ...]], random: Random) -> Iterator[tuple[int, Site]]:
    questions = [(caller, site) for caller, sites in enumerate(asked) for site in sites]
    random.shuffle(questions)
    yield from questions


def test_callers_with_the_same_old_view_do_not_all_go_to_one_machine() -> None:
    views = [machine(f"m{n}") for n in range(5)]
    assert max(placed(views, 1, ask=False).values()) == CALLERS
    counted = placed(views, 1, ask=True)
    assert max(counted.values()) <= CALLERS // 2
    assert len(counted) >= 4


@given(
    st.lists(st.floats(0, 0.004), min_size=4, max_size=12),
    st.lists(st.integers(100, 8000), min_size=12, max_size=12),
    st.integers(0, 1000),
)
def test_no_view_of_machines_that_are_about_as_good_makes_a_herd(
    rtts_s: list[float], cpus: list[int], seed: int
) -> None:
    rooms = [Room(cpu_millicores=cpu, memory_mib=4000, instances=50) for cpu in cpus]
    views = [
        machine(f"m{n}", rtt_s, room=room)
        for n, (rtt_s, room) in enumerate(zip(rtts_s, rooms, strict=False))
    ]
    assert max(placed(views, seed, ask=True).values()) <= CALLERS * 3 // 4


@given(st.integers(0, 1000))
def test_a_near_machine_is_not_given_up_for_a_far_one_without_need(seed: int) -> None:
    views = [machine("near", 0.0005), *(machine(f"m{n}", 0.004) for n in range(4))]
    ranking = ranked(*views)
    asked = contenders(ranking, Random(seed))
    offers = {s.allocator.peer_id: Offer(room=ROOM) for s in asked}
    assert names(order(ranking, offers.keys(), offers, SPEC, UNOBSERVED))[0] == "near"


def test_close_is_measured_without_what_others_change() -> None:
    base = ranked(machine("a")).sites[0]
    edge = replace(base, cost=replace(base.cost, rtt_s=base.cost.rtt_s + CLOSE_S * 1.01))
    assert contenders(Ranking((base, edge), ()), Random(1)) == ()
