from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allocator.rules.policy import (
    NO_RULES,
    Ceiling,
    Ground,
    Listed,
    OwnerRules,
    Quota,
    Rules,
    decide,
    matches,
    registry_host,
    rests_on_name,
    within,
)
from overlay.identity import Identity
from overlay.names import Digest, PeerId
from overlay.spec import Image, ServiceSpec

ALICE, BOB, PROXY = (Identity.from_seed(bytes([n]) * 32).peer_id for n in range(3))
DIGEST = Digest("sha256:" + "a" * 64)
REPO_DIGEST = "sha256:" + "c" * 64
PROCESS = ServiceSpec(process="exec server")
CLOSED, OPEN = Ground(), Ground(open_network=True)


def container(
    reference: str = "team/web:1", *, repo_digest: str | None = None, **fields: object
) -> ServiceSpec:
    image = Image(reference=reference, config_digest=DIGEST, repo_digest=repo_digest)
    return ServiceSpec.model_validate({"image": image, **fields})


def refusal(rules: Rules, ground: Ground = CLOSED, *, spec: ServiceSpec | None = None) -> str:
    verdict = decide(rules, ground, owner=ALICE, spec=spec or container(), peer=PROXY)
    assert not verdict.allowed
    return str(verdict)


def allows(rules: Rules, ground: Ground = CLOSED, *, spec: ServiceSpec | None = None) -> bool:
    return decide(rules, ground, owner=ALICE, spec=spec or container(), peer=PROXY).allowed


def test_without_rules_every_member_of_a_passphrase_network_has_containers_started() -> None:
    assert allows(NO_RULES)
    assert str(decide(NO_RULES, CLOSED, owner=ALICE, spec=container())) == "allowed by default"


def test_without_rules_an_open_network_needs_a_flag_that_the_refusal_names() -> None:
    assert "--allow-any" in refusal(NO_RULES, OPEN)
    assert allows(NO_RULES, replace(OPEN, allow_any=True))
    assert allows(NO_RULES, replace(OPEN, trusted=frozenset({ALICE})))


def test_an_owner_who_is_named_is_meant_in_an_open_network_too() -> None:
    assert allows(Rules(owners=Listed((ALICE,))), OPEN)
    assert not allows(Rules(owners=Listed(("*",))), OPEN)


def test_processes_are_for_trusted_owners_and_whoever_the_rules_give_them_to() -> None:
    everybody = replace(OPEN, allow_any=True)
    assert f"myxo allow {ALICE}" in refusal(NO_RULES, everybody, spec=PROCESS)
    assert allows(NO_RULES, replace(OPEN, trusted=frozenset({ALICE})), spec=PROCESS)
    given_it = Rules(owner={ALICE: OwnerRules(runtimes=frozenset({"process"}))})
    assert allows(given_it, spec=PROCESS)
    assert f"owner.{ALICE}.runtimes" in refusal(given_it)
    assert "policy: runtimes" in refusal(Rules(runtimes=frozenset({"docker"})), spec=PROCESS)


def test_whoever_is_denied_is_told_by_which_rule() -> None:
    assert f'peers.deny "{PROXY}"' in refusal(Rules(peers=Listed(deny=(PROXY,))))
    assert "peers.allow" in refusal(Rules(peers=Listed((BOB,))))
    assert 'owners.deny "*"' in refusal(Rules(owners=Listed((ALICE,), ("*",))))
    assert allows(Rules(owners=Listed(("trusted",))), Ground(trusted=frozenset({ALICE})))
    assert not allows(Rules(owners=Listed(("trusted",))))


@pytest.mark.parametrize(
    ("pattern", "reference", "meant"),
    [
        ("team/*", "team/web:1", True),
        ("team/web", "team/web:1", True),
        ("team/web:2", "team/web:1", False),
        ("*:latest", "team/web:latest", True),
        ("registry:docker.io", "nginx", True),
        ("registry:docker.io", "team/web:1", True),
        ("registry:ghcr.io", "ghcr.io/team/web", True),
        ("registry:*.corp:5000", "eu.corp:5000/web", True),
        ("registry:ghcr.io", "evil.io/ghcr.io/web", False),
        (DIGEST, "whatever", True),
        ("sha256:" + "b" * 64, "whatever", False),
    ],
)
def test_a_pattern_means_names_hosts_or_digests(pattern: str, reference: str, meant: bool) -> None:
    assert matches(pattern, Image(reference=reference, config_digest=DIGEST)) == [meant]


def test_an_image_must_be_allowed_by_every_name_and_is_denied_by_any() -> None:
    image = Image(
        reference="ghcr.io/team/web:1", config_digest=DIGEST, repo_digest=f"evil.io/web@{DIGEST}"
    )
    spec = ServiceSpec(image=image)
    assert "images.allow" in refusal(Rules(images=Listed(("registry:ghcr.io",))), spec=spec)
    assert 'images.deny "registry:evil.io"' in refusal(
        Rules(images=Listed(deny=("registry:evil.io",))), spec=spec
    )
    pushed = image.model_copy(update={"repo_digest": f"ghcr.io/team/web@{DIGEST}"})
    assert allows(Rules(images=Listed(("ghcr.io/team/web:1",))), spec=ServiceSpec(image=pushed))


PUSHED = container("ghcr.io/team/web:1", repo_digest=f"ghcr.io/team/web@{REPO_DIGEST}")


def rests(*allow: str, ground: Ground = CLOSED) -> bool:
    assert PUSHED.image is not None
    return rests_on_name(Rules(images=Listed(allow)), ground, ALICE, PUSHED.image)


def test_only_the_digest_of_its_config_needs_no_proof_that_an_image_is_what_it_is_called() -> None:
    assert rests("registry:ghcr.io")
    assert rests("ghcr.io/team/*")
    assert rests(REPO_DIGEST), "its owner says which one a registry gave it"
    assert not rests(DIGEST)
    assert not rests("registry:ghcr.io", DIGEST)
    assert not rests("registry:ghcr.io", "*")


def test_a_trusted_owner_is_believed_what_an_image_is_called() -> None:
    trusts = Ground(trusted=frozenset({ALICE}))
    assert not rests("registry:ghcr.io", ground=trusts)
    assert allows(Rules(images=Listed(("team/*",))), trusts)


def test_an_image_in_no_registry_does_not_run_for_its_name() -> None:
    named = Rules(images=Listed(("team/*",)))
    assert "nobody but its owner" in refusal(named)
    assert DIGEST in refusal(named), "what would help"
    assert allows(Rules(images=Listed(("team/*", DIGEST))))
    assert allows(Rules(images=Listed(("ghcr.io/team/*",))), spec=PUSHED)


def test_the_host_of_a_name_is_read_as_docker_reads_it() -> None:
    assert registry_host("nginx:1.27") == "docker.io"
    assert registry_host("localhost/web") == "localhost"
    assert registry_host("10.0.0.1:5000/web") == "10.0.0.1:5000"


def test_a_ceiling_binds_who_asks_for_more_and_who_names_no_bound() -> None:
    rules = Rules(ceiling=Ceiling(memory_mib=512))
    assert allows(rules, spec=container(memory_mib=512))
    assert "MemoryReq is 513 MiB" in refusal(rules, spec=container(memory_mib=513))
    assert "names no MemoryReq" in refusal(rules)
    raised = replace(rules, owner={ALICE: OwnerRules(ceiling=Ceiling(memory_mib=1024))})
    assert allows(raised, spec=container(memory_mib=1024))


def test_a_quota_counts_what_an_owner_has() -> None:
    quota = Quota(instances=2, cpu_millicores=1000)
    spec = container(cpu_millicores=600)
    assert within(quota, instances=1, cpu=400, memory_mib=0, spec=spec).allowed
    assert "limits.instances" in str(within(quota, instances=2, cpu=0, memory_mib=0, spec=spec))
    over = within(quota, instances=1, cpu=500, memory_mib=0, spec=spec)
    assert str(over) == (
        "CpuReq is 600 millicores, its owner has 500 of 1000 left (policy: limits.cpu_millicores)"
    )
    assert not within(quota, instances=0, cpu=0, memory_mib=0, spec=container()).allowed


WORDS = st.sampled_from(["*", "trusted", ALICE, BOB])
LISTED = st.builds(
    Listed,
    st.lists(WORDS, max_size=3).map(tuple),
    st.lists(WORDS, max_size=3).map(tuple),
)
GROUNDS = st.builds(
    Ground, st.booleans(), st.booleans(), st.frozensets(st.sampled_from([ALICE, BOB]))
)
RULES = st.builds(
    Rules,
    owners=LISTED,
    runtimes=st.frozensets(st.sampled_from(["docker", "process"])),
    owner=st.dictionaries(
        st.sampled_from([ALICE, BOB]),
        st.builds(OwnerRules, st.none() | st.frozensets(st.sampled_from(["docker", "process"]))),
    ),
)
SPECS = st.sampled_from([container(), PROCESS])


@given(RULES, GROUNDS, SPECS, st.sampled_from([ALICE, BOB]))
def test_more_denied_never_allows_more(
    rules: Rules, ground: Ground, spec: ServiceSpec, denied: PeerId
) -> None:
    stricter = replace(rules, owners=Listed(rules.owners.allow, (*rules.owners.deny, denied)))
    assert not decide(stricter, ground, owner=denied, spec=spec).allowed
    for owner in (ALICE, BOB):
        if decide(stricter, ground, owner=owner, spec=spec).allowed:
            assert decide(rules, ground, owner=owner, spec=spec).allowed


@given(RULES, GROUNDS)
def test_a_process_never_runs_for_an_owner_whom_nobody_named(rules: Rules, ground: Ground) -> None:
    owner = PeerId("a stranger")
    assert not decide(rules, ground, owner=owner, spec=PROCESS).allowed
