import pytest

from overlay.balancing import POLICIES, Balancing
from overlay.spec import RateLimit, ServiceSpec
from proxy.envoy.mapping import LEAST_CONCURRENCY, hashed, obstacle, policy_of, weight_of

PLAIN = ServiceSpec(process="x")


def test_a_plain_service_is_envoys() -> None:
    assert obstacle(PLAIN) == ""
    assert policy_of(PLAIN) == "LEAST_REQUEST"


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"protocol": "tcp"}, "tcp"),
        ({"rate_limit": RateLimit(per_s=1)}, "rate"),
        ({"global_rate_limit": RateLimit(per_s=1)}, "rate"),
        ({"hedge_ms": 5}, "hedged"),
        ({"sticky": "myxo-instance"}, "cookie"),
        ({"max_in_flight": 3}, "bounded"),
        ({"concurrency": LEAST_CONCURRENCY - 1}, "fewer"),
        ({"policy": Balancing(name="original_destination")}, "original_destination"),
        ({"policy": Balancing(name="of_the_future")}, "of_the_future"),
        ({"policy": Balancing(name="maglev", hash="path")}, "path"),
    ],
)
def test_what_envoy_cannot_do_is_left_to_the_proxy_and_named(
    change: dict[str, object], word: str
) -> None:
    assert word in obstacle(ServiceSpec.model_validate({"process": "x", **change}))


def test_every_policy_is_envoys_or_an_obstacle() -> None:
    for name in POLICIES:
        spec = PLAIN.model_copy(update={"policy": Balancing(name=name)})
        assert obstacle(spec) or policy_of(spec).isupper()


def test_weights_count_for_policies_that_have_them() -> None:
    weighted = PLAIN.model_copy(update={"policy": Balancing(name="weighted_round_robin")})
    assert [weight_of(weighted, w) for w in (0.0, 0.001, 1.0, 2.5)] == [0, 1, 100, 250]
    assert weight_of(PLAIN, 2.5) == 1


def test_hashing_policies_hash_what_they_are_told() -> None:
    def of(hash_: str | None) -> object:
        return hashed(PLAIN.model_copy(update={"policy": Balancing(name="maglev", hash=hash_)}))

    assert of("header:X-User") == {"header": {"header_name": "X-User"}}
    assert of("cookie:u") == {"cookie": {"name": "u"}}
    assert of(None) == of("client") == {"connection_properties": {"source_ip": True}}
    assert hashed(PLAIN) is None
