import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.errors import InvalidName
from overlay.names import ServiceName
from overlay.spec import Protocol, ServiceSpec
from overlay.tunnel import Carries
from proxy.errors import NotAChain, WrongProtocol
from proxy.layer4.hops import MAX_HOPS, Hop, hops_of, written

A, B, C = (ServiceName(f"svc-{letter}") for letter in "abc")


def test_a_name_alone_leaves_the_protocol_to_the_definition() -> None:
    assert hops_of("svc-a") == (Hop(A),)


def test_a_protocol_holds_for_the_services_that_follow_it() -> None:
    expected = (Hop(A, "tcp"), Hop(B, "udp"), Hop(C, "udp"))
    assert hops_of("tcp/svc-a/udp/svc-b/svc-c") == expected
    assert hops_of("/tcp/svc-a/udp/svc-b/svc-c/") == expected


@pytest.mark.parametrize(
    "text", ["svc-a/svc-b", "tcp/udp/svc-a", "tcp/svc-a/udp", "http/svc-a", "tcp/tcp"]
)
def test_what_is_no_chain_is_refused_with_how_one_is_written(text: str) -> None:
    with pytest.raises(NotAChain, match="tcp/SERVICE/udp/SERVICE"):
        hops_of(text)


@pytest.mark.parametrize("text", ["", "/", "tcp/", "tcp//svc-a", "Tcp/svc-a?", "a b"])
def test_what_names_no_service_is_refused(text: str) -> None:
    with pytest.raises((NotAChain, InvalidName)):
        hops_of(text)


def test_a_chain_has_a_bound() -> None:
    hops_of("tcp" + "/svc-a" * MAX_HOPS)
    with pytest.raises(NotAChain, match=f"more than {MAX_HOPS}"):
        hops_of("tcp" + "/svc-a" * (MAX_HOPS + 1))


HOPS = st.lists(
    st.builds(Hop, st.sampled_from([A, B, C]), st.sampled_from(["tcp", "udp"])),
    min_size=1,
    max_size=MAX_HOPS,
).map(tuple)


@given(HOPS)
def test_what_is_written_is_read_as_it_was(hops: tuple[Hop, ...]) -> None:
    assert hops_of(written(hops)) == hops


@pytest.mark.parametrize(
    ("protocol", "carries"), [("http1", "tcp"), ("h2c", "tcp"), ("tcp", "tcp"), ("udp", "udp")]
)
def test_a_service_is_sent_what_it_takes_and_nothing_else(
    protocol: Protocol, carries: Carries
) -> None:
    spec = ServiceSpec(process="serve", protocol=protocol)
    other: Carries = "tcp" if carries == "udp" else "udp"
    assert Hop(A).carried(spec) == Hop(A, carries).carried(spec) == carries
    with pytest.raises(WrongProtocol, match=f"protocol: {protocol}"):
        Hop(A, other).carried(spec)
