"""Asking the best machines for offers, and waiting for as long as it can pay."""

from collections.abc import Sequence

import structlog
import trio

from overlay.allocation import OFFER_PROTOCOL, Offer, OfferRequest
from overlay.calls import Caller
from overlay.errors import MyxoError
from overlay.names import PeerId
from overlay.revision import SignedRevision
from overlay.spec import ServiceSpec
from proxy.ranking.offers import FIRST_S, offer_s, patience_s
from proxy.ranking.placement import Site, Times

log = structlog.get_logger()


async def invite(
    calls: Caller,
    sites: Sequence[Site],
    revision: SignedRevision,
    spec: ServiceSpec,
    times: Times,
) -> dict[PeerId, Offer]:
    """Return the offers of those `sites` that answered while it paid to wait for them."""
    request = OfferRequest(
        service=revision.revision.name,
        revision=revision.revision.generation,
        cpu_millicores=spec.cpu_millicores,
        memory_mib=spec.memory_mib,
        image=None if spec.image is None else spec.image.config_digest,
    )
    answers, told = trio.open_memory_channel[tuple[Site, Offer | None]](len(sites))

    async def ask(site: Site) -> None:
        try:
            peer = site.allocator.peer_id
            offer = await calls.call(peer, OFFER_PROTOCOL, request, Offer, timeout_s=FIRST_S)
        except MyxoError as exc:
            log.debug("offer.none", peer=site.allocator.peer_id, reason=str(exc))
            await answers.send((site, None))
        else:
            await answers.send((site, offer))

    offers: dict[PeerId, Offer] = {}
    outstanding, costs_s = list(sites), list[float]()
    async with trio.open_nursery() as nursery:
        for site in sites:
            nursery.start_soon(ask, site)
        deadline = trio.current_time() + FIRST_S
        while outstanding:
            with trio.move_on_at(deadline) as wait:
                site, offer = await told.receive()
            if wait.cancelled_caught:
                break
            outstanding.remove(site)
            if offer is not None:
                offers[site.allocator.peer_id] = offer
                costs_s.append(offer_s(site, offer, spec, times))
                deadline = trio.current_time() + patience_s(costs_s, outstanding)
        nursery.cancel_scope.cancel()
    return offers
