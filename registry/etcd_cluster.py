"""Who is in the etcd cluster, asked and changed through any of its members."""

from dataclasses import dataclass

from registry.errors import StoreMisused
from registry.etcd_gateway import EtcdGateway


@dataclass(frozen=True, slots=True)
class Member:
    """A member of the cluster; its name is empty until it has started for the first time."""

    id: str
    name: str
    peer_urls: tuple[str, ...]
    client_urls: tuple[str, ...]


async def members(gateway: EtcdGateway) -> list[Member]:
    """Return the cluster's members."""
    reply = await gateway.call("cluster/member/list", {})
    return [
        Member(
            m["ID"], m.get("name", ""), tuple(m.get("peerURLs", ())), tuple(m.get("clientURLs", ()))
        )
        for m in reply.get("members", ())
    ]


async def add_member(gateway: EtcdGateway, name: str, peer_url: str) -> str:
    """Let a member in and return the `--initial-cluster` that it must be started with.

    A member that was let in before but never started is not let in a second time.

    Raises:
        StoreMisused: a member of that address has started before, so its data is elsewhere.
        StoreUnavailable: the cluster does not answer, or has no majority.
    """
    known = await members(gateway)
    same = [member for member in known if peer_url in member.peer_urls]
    if same and same[0].name:
        raise StoreMisused(
            f"the cluster has a member at {peer_url} already; if its data is lost, remove it first "
            f"with `etcdctl member remove {int(same[0].id):x}`"
        )
    if not same:
        await gateway.call("cluster/member/add", {"peerURLs": [peer_url]})
        known = await members(gateway)
    return ",".join(
        f"{name if peer_url in member.peer_urls else member.name}={url}"
        for member in known
        for url in member.peer_urls
        if member.name or peer_url in member.peer_urls
    )
