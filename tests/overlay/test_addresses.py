import pytest
from hypothesis import given
from hypothesis import strategies as st
from multiaddr import Multiaddr

from overlay.addresses import (
    Address,
    InvalidAddress,
    expand_wildcard,
    is_circuit,
    parse_address,
)
from overlay.identity import Identity

PEER, RELAY = (Identity.generate().peer_id for _ in range(2))

hosts = st.one_of(
    st.tuples(st.just("ip4"), st.ip_addresses(v=4).map(str)),
    st.tuples(st.just("ip6"), st.ip_addresses(v=6).map(str)),
    st.tuples(
        st.sampled_from(["dns", "dns4", "dns6"]), st.sampled_from(["localhost", "boot.example.org"])
    ),
)


@given(
    host=hosts,
    port=st.integers(0, 65535),
    peer=st.sampled_from([None, PEER]),
    relay=st.sampled_from([None, RELAY]),
)
def test_an_address_is_read_back_as_it_was_written(
    host: tuple[str, str], port: int, peer: None, relay: None
) -> None:
    address = Address(*host, port, peer, relay)
    assert parse_address(str(address)) == address
    assert is_circuit(str(address)) == (relay is not None)


@given(host=hosts, port=st.integers(0, 65535), relay=st.sampled_from([None, RELAY]))
def test_what_is_written_is_a_multiaddr_to_everybody(
    host: tuple[str, str], port: int, relay: None
) -> None:
    written = str(Address(*host, port, PEER, relay))
    assert Multiaddr(written).value_for_protocol("tcp") == str(port)
    assert Multiaddr(written).to_bytes() == Multiaddr(Multiaddr(written).to_bytes()).to_bytes()


def test_a_circuit_says_where_its_relay_is_dialled() -> None:
    circuit = parse_address(f"/ip4/192.0.2.7/tcp/4001/p2p/{RELAY}/p2p-circuit/p2p/{PEER}")
    assert circuit.peer == PEER
    assert str(circuit.relay_address) == f"/ip4/192.0.2.7/tcp/4001/p2p/{RELAY}"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "parts"),
        ("192.0.2.7:4001", "parts"),
        ("/ip4/192.0.2.7", "parts"),
        ("/ip4/192.0.2.7/udp/4001", "'udp'"),
        ("/ip4/192.0.2.7/tcp/4001/ws/x", "'ws'"),
        ("/unix/a/tcp/1", "'unix'"),
        ("/ip4/::1/tcp/4001", "does not belong to ip4"),
        ("/ip4/300.0.0.1/tcp/4001", "not an IP address"),
        ("/dns4/-bad-/tcp/4001", "not a host name"),
        ("/ip4/192.0.2.7/tcp/65536", "not a port"),
        ("/ip4/192.0.2.7/tcp/-1", "not a port"),
        ("/ip4/192.0.2.7/tcp/\u0664", "not a port"),
        ("/ip4/192.0.2.7/tcp/4001/p2p/nobody", "not a peer id"),
        ("/ip4/192.0.2.7/tcp/4001/p2p-circuit", "parts"),
        (f"/ip4/192.0.2.7/tcp/4001/p2p-circuit/p2p/{PEER}", "parts"),
        ("/ip4/192.0.2.7/tcp/4001/p2p/nobody/p2p-circuit", "not a peer id"),
        (f"/ip4/192.0.2.7/tcp/4001/p2p/{RELAY}/p2p-circuit/p2p/nobody", "not a peer id"),
        (f"/ip4/192.0.2.7/tcp/4001/p2p/{RELAY}/p2p-circuit/tcp/1", "'tcp' is not understood"),
        (
            f"/ip4/192.0.2.7/tcp/4001/p2p/{RELAY}/p2p-circuit/p2p/{PEER}/p2p-circuit",
            "parts",
        ),
    ],
)
def test_what_is_wrong_with_an_address_is_said_in_one_line(text: str, why: str) -> None:
    with pytest.raises(InvalidAddress, match=why) as invalid:
        parse_address(text)
    assert "/ip4/192.0.2.7/tcp/4001" in str(invalid.value)
    assert "\n" not in str(invalid.value)


@given(text=st.text(max_size=80))
def test_any_text_is_an_address_or_refused(text: str) -> None:
    try:
        parse_address(text)
    except InvalidAddress:
        return


def test_a_wildcard_expands_to_this_machines_addresses_loopback_last() -> None:
    expanded = expand_wildcard(parse_address("/ip4/0.0.0.0/tcp/4001"))
    assert expanded[-1] == parse_address("/ip4/127.0.0.1/tcp/4001")
    assert not any(address.is_wildcard for address in expanded)


def test_an_address_that_is_no_wildcard_stays_as_it_is() -> None:
    address = parse_address("/ip4/192.0.2.7/tcp/4001")
    assert expand_wildcard(address) == [address]
