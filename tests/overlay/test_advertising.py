import ipaddress

import pytest

from overlay.advertising import (
    advertised_hosts,
    host_port,
    machine_id,
    system_hostname,
    to_multiaddr,
)


@pytest.mark.parametrize("host", ["127.0.0.1", "10.1.2.3", "::1", "localhost", "node.example"])
def test_a_named_address_is_advertised_as_it_is(host: str) -> None:
    assert advertised_hosts(host) == [host]


@pytest.mark.parametrize("host", ["", "0.0.0.0"])
def test_a_wildcard_is_advertised_as_the_machines_own_addresses(host: str) -> None:
    found = [ipaddress.ip_address(h) for h in advertised_hosts(host)]
    assert found
    assert all(ip.version == 4 and not ip.is_unspecified and not ip.is_link_local for ip in found)
    assert not any(ip.is_loopback for ip in found) or len(found) == 1


def test_an_ipv6_wildcard_is_advertised_as_ipv6() -> None:
    assert all(ipaddress.ip_address(h).version == 6 for h in advertised_hosts("::"))


@pytest.mark.parametrize(
    ("host", "multiaddr", "text"),
    [
        ("1.2.3.4", "/ip4/1.2.3.4/tcp/80", "1.2.3.4:80"),
        ("::1", "/ip6/::1/tcp/80", "[::1]:80"),
        ("a.example", "/dns/a.example/tcp/80", "a.example:80"),
    ],
)
def test_addresses_are_written_as_their_readers_want(host: str, multiaddr: str, text: str) -> None:
    assert to_multiaddr(host, 80) == multiaddr
    assert host_port(host, 80) == text


def test_a_machine_has_one_id_and_a_name() -> None:
    assert machine_id() == machine_id()
    assert len(machine_id()) == 32
    assert system_hostname()
