"""Whether to ask the best machines first, how long to wait for them, and what decides then.

All proxies that see the same old view would start on the same machine. So where several machines
are about as good, the best and two drawn at random are asked what a start would meet there now
(power of d choices; Mitzenmacher 2001), and the decision falls late, by their answers (Sparrow,
SOSP 2013). Where one machine is clearly the best, or is the caller's own, nobody is asked: the
common start costs one round trip.

Waiting is a cost too, in the same seconds as all others: once a machine has answered, the others
are waited for as long as one could still save more than that, and never longer than a start takes.
For the first answer it is `FIRST_S`, as there is nothing yet to compare with.

Pure: sites and offers in, sites in order out.
"""

from collections.abc import Collection, Mapping, Sequence
from random import Random

from overlay.allocation import Offer
from overlay.names import PeerId
from overlay.spec import ServiceSpec
from proxy.ranking.placement import START_S, Ranking, Site, There, Times, offered

ASKED = 3
"""Two choices are what makes loads even; the third is for one that does not answer."""

CLOSE_S = START_S
"""Machines whose costs differ by less, room set aside, are about as good: one start that is before
ours there costs as much."""

PATIENCE_S = START_S
"""The longest wait for offers after the first: what a start takes anyway."""

FIRST_S = 0.5
"""The longest wait for the first offer; the order that the view gives holds after it."""

AHEAD_S = START_S / 2
"""For each start that is before ours on a machine: two go at once on each core."""

SILENT_S = START_S
"""For a machine that did not answer in time: it may be busy, or does not know the question."""


def contenders(ranking: Ranking, random: Random) -> tuple[Site, ...]:
    """Return the machines to ask first, none if the best is clearly that."""
    sites = ranking.sites
    if len(sites) < 2 or sites[0].allocator.local:  # noqa: PLR2004
        return ()
    best = sites[0]
    close = [site for site in sites[1:] if _fixed_s(site) - _fixed_s(best) < CLOSE_S]
    if not close:
        return ()
    return best, *random.sample(close, min(ASKED - 1, len(close)))


def patience_s(costs_s: Collection[float], outstanding: Sequence[Site]) -> float:
    """Return how much longer to wait for offers, when some are there that cost `costs_s`.

    What is outstanding can at best be a machine with room that has an instance ready.
    """
    if not costs_s or not outstanding:
        return 0.0
    hoped_s = min(_fixed_s(site) - site.cost.start_s for site in outstanding)
    return min(PATIENCE_S, max(0.0, min(costs_s) - hoped_s))


def order(
    ranking: Ranking,
    asked: Collection[PeerId],
    offers: Mapping[PeerId, Offer],
    spec: ServiceSpec,
    times: Times,
) -> list[Site]:
    """Return the machines to try, best first, by offers where there are some.

    Of those that were not asked nothing new is known, and everybody else may be on the way there;
    so they come after whoever offered room.
    """
    firsts: list[tuple[float, Site]] = []
    rest: list[Site] = []
    for site in ranking.sites:
        offer, peer = offers.get(site.allocator.peer_id), site.allocator.peer_id
        if offer is not None and _feasible(offer, spec):
            firsts.append((offer_s(site, offer, spec, times), site))
        elif offer is None and peer in asked:
            firsts.append((site.cost.total_s + SILENT_S, site))
        else:
            rest.append(site)
    firsts.sort(key=lambda pair: (pair[0], pair[1].allocator.peer_id))
    full = {peer for peer, offer in offers.items() if not _feasible(offer, spec)}
    rest.sort(key=lambda site: site.allocator.peer_id in full)
    return [site for _, site in firsts] + rest


def offer_s(site: Site, offer: Offer, spec: ServiceSpec, times: Times) -> float:
    """Return what a start will cost where this was offered, in seconds."""
    there = There(starting=offer.starting, resume_s=0.0 if offer.ready else offer.resume_s)
    waits = offer.ready or offer.starting or offer.resume_s is not None
    ahead_s = 0.0 if waits else AHEAD_S * offer.ahead
    cost = offered(site.cost, spec, there, offer.room, times, image=offer.image)
    return cost.total_s + ahead_s


def in_words(offer: Offer) -> str:
    """Return an offer as `myxo why` shows it."""
    has = [
        *(["an instance with room"] if offer.ready else []),
        *(["a start under way"] if offer.starting else []),
        *([] if offer.resume_s is None else [f"a paused one, {offer.resume_s * 1000:.0f} ms"]),
        *([] if offer.image else ["no image"]),
    ]
    room = f"{offer.room.cpu_millicores} millicores and {offer.room.memory_mib} MiB"
    return ", ".join([room, f"{offer.ahead} before it", *has])


def _fixed_s(site: Site) -> float:
    """Return the part of a cost that nobody else's starts change."""
    return site.cost.total_s - site.cost.room_s


def _feasible(offer: Offer, spec: ServiceSpec) -> bool:
    if offer.ready or offer.starting or offer.resume_s is not None:
        return True
    return offer.room.fits(spec)
