from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from overlay.balancing import Balancing
from overlay.generation import OF_INSTANCES, OF_USE, same_instances, taken_over
from overlay.identity import Identity
from overlay.names import Digest, ServiceName
from overlay.revision import Revision, SignedRevision
from overlay.spec import Image, RateLimit, ServiceSpec

ALICE, BOB = Identity.from_seed(b"a" * 32), Identity.from_seed(b"b" * 32)
HELLO = ServiceName("hello")
IMAGES = [
    Image(reference="hello", config_digest=Digest("sha256:" + digit * 64)) for digit in ("0", "1")
]

VALUES: dict[str, list[Any]] = {
    "image": [None, *IMAGES],
    "process": [None, "true", "false"],
    "command": [None, "true"],
    "port": [80, 8080],
    "protocol": ["http1", "h2c", "tcp"],
    "env": [{}, {"MODE": "fast"}, {"MODE": "slow"}],
    "constraints": [{}, {"zone": ("berlin",)}],
    "cpu_millicores": [0, 100],
    "memory_mib": [0, 64],
    "ready_timeout_s": [10, 30],
    "preempt_grace_s": [None, 1.0, 2.0],
    "health": [None, "/", "/health"],
    "health_interval_s": [0, 5],
    "health_failures": [1, 2],
    "read_only": [False, True],
    "cap_drop_all": [False, True],
    "network": ["outside", "none"],
    "tunnel_idle_s": [None, 1.0],
    "soft_rtt_ms": [None, 1.0],
    "hard_rtt_ms": [None, 2.0],
    "prefer": [{}, {"zone": ("berlin",)}],
    "concurrency": [1, 100],
    "max_instances": [0, 1, 5],
    "min_instances": [0, 1, 3],
    "min_state": ["running", "paused"],
    "idle_pause_s": [0, 30],
    "idle_stop_s": [1, 300],
    "idempotent": [False, True],
    "eject_after": [0, 5],
    "retry_percent": [0, 20],
    "retry_statuses": [(), (502, 503)],
    "hedge_ms": [None, 1.0],
    "hedge_percentile": [None, 95.0],
    "timeout_s": [None, 1.0],
    "max_in_flight": [0, 1],
    "max_pending": [0, 1],
    "rate_limit": [None, RateLimit(per_s=1)],
    "client_rate_limit": [None, RateLimit(per_s=1)],
    "global_rate_limit": [None, RateLimit(per_s=1)],
    "policy": [None, Balancing(name="weighted_random", weights={"big": 2.0})],
    "sticky": [False, "cookie", "other"],
}

specs = st.fixed_dictionaries({name: st.sampled_from(some) for name, some in VALUES.items()}).map(
    ServiceSpec.model_validate
)
fields = st.sampled_from(sorted(VALUES))


def signed(
    number: int, spec: ServiceSpec | None, by: Identity = ALICE, takes_over: int = 0
) -> SignedRevision:
    revision = Revision(name=HELLO, number=number, spec=spec, takes_over=takes_over)
    return SignedRevision.sign(by, revision)


def test_every_field_concerns_either_the_instance_or_its_use() -> None:
    assert set(ServiceSpec.model_fields) == OF_INSTANCES | OF_USE
    assert not OF_INSTANCES & OF_USE
    assert set(VALUES) == OF_INSTANCES | OF_USE


@given(specs, fields, st.data())
def test_a_change_of_one_field_replaces_instances_if_it_concerns_them(
    before: ServiceSpec, name: str, data: st.DataObject
) -> None:
    said = {field: getattr(before, field) for field in VALUES}
    every = [ServiceSpec.model_validate(said | {name: value}) for value in VALUES[name]]
    after = data.draw(st.sampled_from([spec for spec in every if spec != before]))
    assert same_instances(before, after) == (name in OF_USE)


@settings(max_examples=30)
@given(specs, specs, specs)
def test_to_have_the_same_instances_sorts_definitions_into_classes(
    a: ServiceSpec, b: ServiceSpec, c: ServiceSpec
) -> None:
    b = b.model_copy(update={name: getattr(a, name) for name in OF_INSTANCES})
    assert same_instances(a, a)
    assert same_instances(a, b)
    assert same_instances(b, a)
    assert same_instances(a, c) == same_instances(b, c)


@given(st.lists(specs | st.none(), max_size=8), st.data())
def test_a_generation_is_the_number_since_which_instances_are_the_same(
    course: list[ServiceSpec | None], data: st.DataObject
) -> None:
    newest: SignedRevision | None = None
    began = 0
    for number, spec in enumerate(course, 1):
        by = data.draw(st.sampled_from([ALICE, ALICE, BOB]))
        before = None if newest is None else newest.revision.spec
        goes_on = (
            newest is not None
            and newest.owner == by.peer_id
            and before is not None
            and spec is not None
            and same_instances(before, spec)
        )
        began = began if goes_on else number
        newest = signed(number, spec, by, taken_over(newest, spec, by.peer_id))
        assert newest.revision.generation == began


def test_instances_of_a_revision_to_come_cannot_be_taken_over() -> None:
    with pytest.raises(ValidationError, match="an earlier one"):
        Revision(name=HELLO, number=2, spec=None, takes_over=2)
