import pytest
from hypothesis import given
from hypothesis import strategies as st

from allocator.rules.admission import (
    Admitted,
    Decision,
    Ledger,
    Limits,
    Policy,
    Refusal,
    check_constraints,
    check_platform,
    check_revision,
    check_runnable,
)
from allocator.rules.policy import Listed, Quota, Rules
from allocator.runtime import Capacity
from overlay.allocation import AllocationRefusal
from overlay.identity import Identity
from overlay.names import Digest, InstanceId, PeerId, ServiceName
from overlay.revision import Revision, SignedRevision
from overlay.spec import Image, ServiceSpec

ALICE, BOB = Identity.generate(), Identity.generate()
IMAGE = Image(reference="hello", config_digest=Digest("sha256:" + "0" * 64))
CONTAINER = ServiceSpec(image=IMAGE)
PROCESS = ServiceSpec(process="exec server")


def spec(cpu: int = 0, memory: int = 0) -> ServiceSpec:
    return ServiceSpec(image=IMAGE, cpu_millicores=cpu, memory_mib=memory)


def revision(number: int = 1, *, owner: Identity = ALICE, port: int = 8080) -> SignedRevision:
    what = ServiceSpec(image=IMAGE, port=port)
    return SignedRevision.sign(owner, Revision(name=ServiceName("hello"), number=number, spec=what))


def refusal(decision: Decision) -> Refusal:
    assert isinstance(decision, Refusal)
    return decision


def test_a_reservation_that_does_not_fit_is_refused_with_what_is_free() -> None:
    ledger = Ledger(Limits(2000, 1024, 10))
    assert ledger.reserve(InstanceId("a"), ALICE.peer_id, spec(1500, 100)) == Admitted()
    decision = refusal(ledger.reserve(InstanceId("b"), ALICE.peer_id, spec(600)))
    assert decision.code is AllocationRefusal.NO_ROOM
    assert decision.text == "CpuReq is 600 millicores, 500 of 2000 are free"
    memory = refusal(ledger.reserve(InstanceId("b"), ALICE.peer_id, spec(0, 925)))
    assert memory.text == "MemoryReq is 925 MiB, 924 of 1024 are free"


def test_no_requirement_still_counts_as_an_instance() -> None:
    ledger = Ledger(Limits(1000, 1000, 1))
    assert ledger.reserve(InstanceId("a"), ALICE.peer_id, spec()) == Admitted()
    assert "the most" in refusal(ledger.reserve(InstanceId("b"), BOB.peer_id, spec())).text


def test_an_owner_may_have_a_quota_of_instances() -> None:
    ledger = Ledger(Limits(1000, 1000, 10, instances_per_author=1))
    assert ledger.reserve(InstanceId("a"), ALICE.peer_id, spec()) == Admitted()
    assert isinstance(ledger.reserve(InstanceId("b"), ALICE.peer_id, spec()), Refusal)
    assert ledger.reserve(InstanceId("b"), BOB.peer_id, spec()) == Admitted()


STEPS = st.lists(
    st.tuples(st.sampled_from("abcdef"), st.booleans(), st.integers(0, 900), st.integers(0, 900))
)


@given(STEPS)
def test_what_is_promised_never_exceeds_what_is_there(
    steps: list[tuple[str, bool, int, int]],
) -> None:
    ledger = Ledger(Limits(1000, 1000, 3))
    held: dict[str, tuple[int, int]] = {}
    for name, enters, cpu, memory in steps:
        if not enters:
            ledger.release(InstanceId(name))
            held.pop(name, None)
        elif name not in held:
            decision = ledger.reserve(InstanceId(name), ALICE.peer_id, spec(cpu, memory))
            fits = (
                len(held) < 3
                and sum(c for c, _ in held.values()) + cpu <= 1000
                and sum(m for _, m in held.values()) + memory <= 1000
            )
            assert (decision == Admitted()) == fits
            if fits:
                held[name] = cpu, memory
        room = ledger.room()
        assert room.cpu_millicores == 1000 - sum(c for c, _ in held.values())
        assert room.memory_mib == 1000 - sum(m for _, m in held.values())
        assert room.instances == 3 - len(held)


@pytest.mark.parametrize(
    ("open_network", "allow_any", "author", "what", "runs"),
    [
        (False, False, BOB, CONTAINER, True),
        (False, False, BOB, PROCESS, False),
        (False, False, ALICE, PROCESS, True),
        (True, False, BOB, CONTAINER, False),
        (True, False, ALICE, CONTAINER, True),
        (True, True, BOB, CONTAINER, True),
        (True, True, BOB, PROCESS, False),
        (True, True, ALICE, PROCESS, True),
    ],
)
def test_images_run_for_members_and_processes_only_for_allowed_owners(
    open_network: bool, allow_any: bool, author: Identity, what: ServiceSpec, runs: bool
) -> None:
    policy = Policy(open_network, allow_any, lambda: frozenset({ALICE.peer_id}))
    decision = policy.decide(author.peer_id, what)
    assert (decision == Admitted()) == runs
    if not runs:
        assert refusal(decision).code is AllocationRefusal.NOT_ALLOWED
        assert f"myxo allow {BOB.peer_id}" in refusal(decision).text


def test_an_owners_quota_is_reckoned_from_what_it_was_promised() -> None:
    quotas = {ALICE.peer_id: Quota(instances=1, memory_mib=500)}
    ledger = Ledger(Limits(1000, 1000, 10), lambda owner: quotas.get(owner, Quota()))
    assert (
        "names no MemoryReq" in refusal(ledger.reserve(InstanceId("a"), ALICE.peer_id, spec())).text
    )
    assert ledger.reserve(InstanceId("a"), ALICE.peer_id, spec(memory=500)) == Admitted()
    decision = refusal(ledger.reserve(InstanceId("b"), ALICE.peer_id, spec(memory=1)))
    assert decision.code is AllocationRefusal.NO_ROOM
    assert "limits.instances" in decision.text
    assert ledger.reserve(InstanceId("b"), BOB.peer_id, spec()) == Admitted()
    ledger.release(InstanceId("a"))
    assert ledger.reserve(InstanceId("c"), ALICE.peer_id, spec(memory=1)) == Admitted()


def test_an_owners_starts_a_minute_are_counted_apart_from_others() -> None:
    rules = Rules(quota=Quota(starts_per_minute=2))
    policy = Policy(open_network=False, allow_any=False, allowed=frozenset, rules=lambda: rules)
    assert [policy.pace(ALICE.peer_id, 0.0) for _ in range(2)] == [Admitted(), Admitted()]
    decision = refusal(policy.pace(ALICE.peer_id, 0.0))
    assert decision.code is AllocationRefusal.BUSY
    assert "the next one in 30 s" in decision.text
    assert policy.pace(BOB.peer_id, 0.0) == Admitted()
    assert policy.pace(ALICE.peer_id, 30.0) == Admitted()


def test_a_refusal_carries_the_rule_and_a_change_of_rules_counts_at_once() -> None:
    rules = Rules(images=Listed(("team/*",)))
    policy = Policy(open_network=False, allow_any=False, allowed=frozenset, rules=lambda: rules)
    assert refusal(policy.decide(BOB.peer_id, CONTAINER)).text == (
        "the image hello is not among those that may run (policy: images.allow)"
    )
    rules = Rules()
    assert policy.decide(BOB.peer_id, CONTAINER) == Admitted()


def test_a_newly_allowed_owner_counts_at_once() -> None:
    allowed: set[PeerId] = set()
    policy = Policy(open_network=False, allow_any=False, allowed=lambda: frozenset(allowed))
    assert isinstance(policy.decide(BOB.peer_id, PROCESS), Refusal)
    allowed.add(BOB.peer_id)
    assert policy.decide(BOB.peer_id, PROCESS) == Admitted()


def test_a_revision_that_nothing_is_known_of_is_taken_at_its_word() -> None:
    assert check_revision(revision(), None) == Admitted()
    assert check_revision(revision(), revision()) == Admitted()
    assert check_revision(revision(2), revision(1)) == Admitted()


@pytest.mark.parametrize(
    ("given_revision", "known"),
    [
        (revision(1), revision(2)),
        (revision(1, port=1), revision(1, port=2)),
        (revision(2, owner=BOB), revision(1, owner=ALICE)),
    ],
)
def test_an_older_or_foreign_revision_is_refused(
    given_revision: SignedRevision, known: SignedRevision
) -> None:
    decision = refusal(check_revision(given_revision, known))
    assert decision.code is AllocationRefusal.BAD_REVISION


def test_an_image_for_another_processor_is_refused() -> None:
    arm = Capacity(1, 1, "linux/arm64")
    decision = refusal(check_platform(CONTAINER, arm))
    assert decision.text == "the image is for linux/amd64; this machine is linux/arm64"
    assert check_platform(PROCESS, arm) == Admitted()


def test_a_machine_without_a_wanted_label_refuses_and_names_it() -> None:
    wanted = PROCESS.model_copy(update={"constraints": {"zone": ("a",)}})
    decision = refusal(check_constraints(wanted, {"zone": frozenset({"b"})}))
    assert (decision.code, decision.text) == (
        AllocationRefusal.CONSTRAINT,
        "its zone is b, the service wants a",
    )
    assert check_constraints(wanted, {"zone": frozenset({"a"})}) == Admitted()
    assert check_constraints(None, {}) == Admitted()


def test_a_spec_needs_exactly_one_thing_to_run() -> None:
    assert check_runnable(CONTAINER) == check_runnable(PROCESS) == Admitted()
    assert isinstance(check_runnable(ServiceSpec()), Refusal)
    assert isinstance(check_runnable(ServiceSpec(image=IMAGE, process="x")), Refusal)
