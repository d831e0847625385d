import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.names import InstanceId, ServiceName
from proxy.errors import GoesInCircles
from proxy.route.caller import Caller
from proxy.route.chains import MAX_LENGTH, MAX_VISITS, Call, Chains, parse, render

WEB, API, DATA = (ServiceName(name) for name in ("web", "api", "data"))
A_WEB, AN_API, A_DATA = (Caller(s, InstanceId(f"{s}-1")) for s in (WEB, API, DATA))

NAMES = st.from_regex(r"[a-z0-9]([a-z0-9._-]{0,8}[a-z0-9])?", fullmatch=True).filter(
    lambda name: ".." not in name
)


def through(chains: Chains, caller: Caller | None, to: Caller, given_chain: bytes | None) -> Call:
    """Have `caller` send a request to the service of `to`, which takes it and does not answer."""
    call = chains.call(caller, given_chain, to.service)
    chains.enter(to.instance, call)
    return call


def test_what_comes_from_outside_has_no_chain_whatever_it_says() -> None:
    assert Chains().call(None, b"web, api", DATA).chain == ()


def test_a_chain_that_is_handed_on_grows_by_the_caller() -> None:
    chains = Chains()
    through(chains, None, A_WEB, None)
    first = through(chains, A_WEB, AN_API, None)
    assert render(first.chain) == b"web"
    assert through(chains, AN_API, A_DATA, render(first.chain)).chain == (WEB, API)


def test_an_instance_that_hands_nothing_on_is_tied_to_its_only_request() -> None:
    chains = Chains()
    through(chains, None, A_WEB, None)
    through(chains, A_WEB, AN_API, None)
    assert through(chains, AN_API, A_DATA, None).chain == (WEB, API)


def test_an_instance_cannot_say_that_its_request_comes_from_outside() -> None:
    chains = Chains()
    through(chains, None, A_WEB, None)
    through(chains, A_WEB, AN_API, None)
    assert chains.call(AN_API, b"", DATA).chain == (WEB, API)
    assert chains.call(AN_API, b"data", DATA).chain == (WEB, API)


def test_an_instance_that_others_proxies_call_is_believed_or_known_by_its_name() -> None:
    assert Chains().call(AN_API, b"web", DATA).chain == (WEB, API)
    assert Chains().call(AN_API, None, DATA).chain == (API,)


def go_round(chains: Chains, requests: int, rounds: list[int]) -> None:
    """Have web and api call each other for as long as they may, and hand nothing on."""
    while True:
        for _ in range(requests):
            through(chains, A_WEB, AN_API, None)
        for _ in range(requests):
            through(chains, AN_API, A_WEB, None)
        rounds.append(requests)


@pytest.mark.parametrize("requests", [1, 10])
def test_services_that_call_each_other_end_though_they_hand_nothing_on(requests: int) -> None:
    chains, rounds = Chains(), list[int]()
    for _ in range(requests):
        through(chains, None, A_WEB, None)
    with pytest.raises(GoesInCircles) as caught:
        go_round(chains, requests, rounds)
    assert "web > api > web" in str(caught.value)
    assert caught.value.status == 508
    assert 1 <= len(rounds) <= MAX_VISITS


def test_a_service_may_call_itself_a_few_times() -> None:
    chains, chain = Chains(), b""
    for _ in range(MAX_VISITS - 1):
        chain = render(chains.call(A_WEB, chain, WEB).chain)
    with pytest.raises(GoesInCircles):
        chains.call(A_WEB, chain, WEB)


def test_many_requests_side_by_side_are_no_chain() -> None:
    chains = Chains()
    for _ in range(100):
        through(chains, None, A_WEB, None)
    seen = {through(chains, A_WEB, AN_API, None).chain for _ in range(300)}
    assert seen == {(WEB,)}
    assert {chains.call(AN_API, None, DATA).chain for _ in range(300)} == {(WEB, API)}


def test_a_chain_has_a_longest_length() -> None:
    names = [ServiceName(f"s{n}") for n in range(MAX_LENGTH)]
    caller = Caller(names[-1], InstanceId("i"))
    assert Chains().call(caller, render(tuple(names[:-2])), WEB).chain
    with pytest.raises(GoesInCircles, match=f"at most {MAX_LENGTH}"):
        Chains().call(caller, render(tuple(names)), WEB)


def test_a_header_without_end_is_a_chain_that_is_too_long() -> None:
    for stem in (b"a", b"a" * 61):
        endless = b", ".join(stem + b"%d" % (n % 90 + 10) for n in range(5000))
        with pytest.raises(GoesInCircles):
            Chains().call(A_DATA, endless, WEB)


@pytest.mark.parametrize("value", [b"Web", b"a,,b", b"a b", b"\xff", b"..", b"-", b"a;b"])
def test_what_is_no_chain_says_nothing(value: bytes) -> None:
    assert parse(value) == ()


@given(st.lists(NAMES, min_size=1, max_size=20))
def test_what_is_rendered_is_read_back(names: list[str]) -> None:
    chain = tuple(ServiceName(name) for name in names)
    assert parse(render(chain)) == chain


SERVICES = [Caller(ServiceName(n), InstanceId(f"{n}-1")) for n in ("a", "b", "c", "d")]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.booleans()), max_size=40))
def test_without_a_circle_among_services_nothing_is_ever_refused(
    calls: list[tuple[int, int, bool]],
) -> None:
    """Calls go only to later services, so every chain that can be inferred is a path."""
    chains = Chains()
    given_to: dict[int, bytes] = {}
    for one, other in [(a, b) for a, b, _ in calls]:
        if one >= other:
            through(chains, None, SERVICES[other], None)
            continue
        call = through(chains, SERVICES[one], SERVICES[other], given_to.get(one))
        assert len(set(call.chain)) == len(call.chain)
        given_to[other] = render(call.chain)


@given(st.lists(st.integers(0, 3), max_size=30))
def test_what_has_been_answered_leaves_nothing_behind(targets: list[int]) -> None:
    chains = Chains()
    under_way = []
    for target in targets:
        call = chains.call(None, None, SERVICES[target].service)
        under_way.append((call, chains.enter(SERVICES[target].instance, call)))
    for call, visit in under_way:
        chains.leave(visit)
        chains.called(call)
    assert not chains._visits
