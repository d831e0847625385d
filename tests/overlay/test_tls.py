import pytest
import trio

from overlay.identity import Identity
from overlay.passphrase import NetworkKeys, network_keys
from overlay.tls import PeerTls, leaf_sha256, open_tls

A, B = (Identity.from_seed(bytes([n]) * 32).peer_id for n in range(2))
KEYS, OTHER_KEYS, OPEN = network_keys("secret"), network_keys("another"), network_keys(None)

Stream = trio.SSLStream[trio.SocketStream]


async def shaken(server: PeerTls, client: PeerTls) -> tuple[Stream, Stream]:
    """Both ends after the handshake and a byte each way; what fails is raised in a group."""
    raw = [trio.SocketStream(s) for s in trio.socket.socketpair()]
    ends = (
        trio.SSLStream(raw[0], server.server_context, server_side=True, https_compatible=True),
        trio.SSLStream(raw[1], client.client_context, https_compatible=True),
    )
    try:
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                for end in ends:
                    nursery.start_soon(_greet, end)
    finally:
        for stream in raw:
            await trio.aclose_forcefully(stream)
    return ends


async def _greet(end: Stream) -> None:
    await end.do_handshake()
    await end.send_all(b"x")
    assert await end.receive_some(1) == b"x"


async def test_members_shake_hands_in_tls_1_3_and_see_each_others_pin() -> None:
    server, client = open_tls(KEYS, A), open_tls(KEYS, B)
    server_end, client_end = await shaken(server, client)
    assert leaf_sha256(client_end) == server.certificate_sha256
    assert leaf_sha256(server_end) == client.certificate_sha256
    assert client_end.version() == "TLSv1.3"
    assert client_end.selected_alpn_protocol() == "http/1.1"


def test_every_start_has_another_pin() -> None:
    assert open_tls(KEYS, A).certificate_sha256 != open_tls(KEYS, A).certificate_sha256
    assert len(open_tls(KEYS, A).certificate_sha256) == 64


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
    with pytest.raises(ExceptionGroup) as refused:
        await shaken(server, PeerTls(server.server_context, bare, ""))
    assert refused.group_contains(trio.BrokenResourceError)
