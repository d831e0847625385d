from allocator.serving.quotas import Quotas
from overlay.identity import Identity
from overlay.names import ServiceName
from overlay.quota import Quota, QuotaRequest
from overlay.revision import Revision, SignedRevision
from overlay.spec import RateLimit, ServiceSpec

ALICE = Identity.from_seed(b"a" * 32)
LIMITED, FREE = ServiceName("limited"), ServiceName("free")


def quotas() -> Quotas:
    limit = RateLimit(per_s=10, burst=5)
    specs = {
        LIMITED: ServiceSpec(process="serve", global_rate_limit=limit),
        FREE: ServiceSpec(process="serve"),
    }
    known = {
        name: SignedRevision.sign(ALICE, Revision(name=name, number=1, spec=spec))
        for name, spec in specs.items()
    }
    return Quotas(known.get)


def test_shares_are_granted_from_one_budget_whoever_asks() -> None:
    counted = quotas()
    request = QuotaRequest(service=LIMITED, wanted=3)
    assert counted.take(request, 0.0) == Quota(granted=3)
    assert counted.take(request, 0.0) == Quota(granted=2)
    refused = counted.take(request, 0.0)
    assert refused is not None
    assert refused.granted == 0
    assert abs(refused.wait_s - 0.1) < 1e-6
    assert counted.take(request, 0.2) == Quota(granted=2)


def test_a_service_without_a_limit_or_that_is_unknown_has_no_quota() -> None:
    for name in (FREE, ServiceName("unknown")):
        assert quotas().take(QuotaRequest(service=name, wanted=1), 0.0) is None
