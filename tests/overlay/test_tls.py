import pytest
import trio

from overlay.http.tls_stream import TlsStream
from overlay.identity import Identity
from overlay.passphrase import NetworkKeys, network_keys
from overlay.tls import PeerTls, open_tls, pin_of

A, B = (Identity.from_seed(bytes([n]) * 32).peer_id for n in range(2))
KEYS, OTHER_KEYS, OPEN = network_keys("secret"), network_keys("another"), network_keys(None)


async def shaken(server: PeerTls, client: PeerTls) -> tuple[TlsStream, TlsStream]:
    """Both ends after the handshake and a byte each way; what fails is raised in a group."""
    raw = [trio.SocketStream(s) for s in trio.socket.socketpair()]
    ends = (
        TlsStream(raw[0], server.server_context, server_side=True),
        TlsStream(raw[1], client.client_context),
    )
    try:
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for end in ends:
                    nursery.start_soon(_greet, end)
    finally:
        for stream in raw:
            await trio.aclose_forcefully(stream)
    return ends


async def _greet(end: TlsStream) -> None:
    await end.do_handshake()
    await end.send_all(b"x")
    assert await end.receive_some(1) == b"x"


async def test_members_shake_hands_in_tls_1_3_and_see_each_others_pin() -> None:
    server, client = open_tls(KEYS, A), open_tls(KEYS, B)
    server_end, client_end = await shaken(server, client)
    assert pin_of(client_end.peer_certificate()) == server.pin
    assert pin_of(server_end.peer_certificate()) == client.pin
    assert client_end.version == "TLSv1.3"
    assert client_end.alpn == "http/1.1"


def test_every_start_has_another_pin() -> None:
    assert open_tls(KEYS, A).pin != open_tls(KEYS, A).pin
    assert len(open_tls(KEYS, A).pin) == 64


@pytest.mark.parametrize(
    ("server", "client"),
    [(KEYS, OTHER_KEYS), (OTHER_KEYS, KEYS), (KEYS, OPEN), (OPEN, KEYS)],
)
async def test_a_certificate_of_another_network_is_refused_in_both_directions(
    server: NetworkKeys, client: NetworkKeys
) -> None:
    ends = open_tls(server, A), open_tls(client, B)
    with pytest.raises(ExceptionGroup) as refused:
        await shaken(*ends)
    assert refused.group_contains(trio.BrokenResourceError)


async def test_peers_of_one_open_network_shake_hands() -> None:
    await shaken(open_tls(OPEN, A), open_tls(network_keys(""), B))


async def test_a_caller_without_a_certificate_is_refused() -> None:
    server, client = open_tls(KEYS, A), open_tls(KEYS, B)
    bare = client.client_context.__class__(client.client_context.protocol)
    bare.check_hostname = False
    bare.verify_mode = bare.verify_mode.__class__(0)
    client.client_context = bare
    with pytest.raises(ExceptionGroup) as refused:
        await shaken(server, client)
    assert refused.group_contains(trio.BrokenResourceError)


def test_a_peer_that_changes_its_passphrase_keeps_its_pin() -> None:
    peer = open_tls(KEYS, A)
    before = peer.pin
    peer.renew(OTHER_KEYS, also_trusted=[KEYS])
    assert peer.pin == before


@pytest.mark.parametrize("renewed", ["server", "client", "both"])
async def test_while_the_passphrase_changes_peers_on_either_side_of_it_shake_hands(
    renewed: str,
) -> None:
    server = open_tls(KEYS, A, also_trusted=[OTHER_KEYS])
    client = open_tls(KEYS, B, also_trusted=[OTHER_KEYS])
    for name, peer in (("server", server), ("client", client)):
        if renewed in {name, "both"}:
            peer.renew(OTHER_KEYS, also_trusted=[KEYS])
    server_end, client_end = await shaken(server, client)
    assert (pin_of(client_end.peer_certificate()), pin_of(server_end.peer_certificate())) == (
        server.pin,
        client.pin,
    )


async def test_a_leaf_of_the_old_authority_is_refused_when_the_change_is_over() -> None:
    server, client = open_tls(KEYS, A, also_trusted=[OTHER_KEYS]), open_tls(KEYS, B)
    await shaken(server, client)
    server.renew(OTHER_KEYS)
    with pytest.raises(ExceptionGroup) as refused:
        await shaken(server, client)
    assert refused.group_contains(trio.BrokenResourceError)
