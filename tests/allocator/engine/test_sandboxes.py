"""What is decided about sandboxes, without an engine."""

from collections.abc import Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from allocator.engine.containers import Ownership, joining
from allocator.engine.sandboxes import (
    PATIENCE_S,
    QUIET_S,
    Kind,
    Sandbox,
    next_step,
    patience_s,
    sandbox_config,
    sandbox_limits,
    sort_out,
    suits,
)
from overlay.names import InstanceId, PeerId, SandboxId
from overlay.spec import Network, ServiceSpec

OURS = Ownership("net", PeerId("me"))
OUTSIDE = Kind("outside", 4200)
INSIDE = Kind("none", 4200)


def idle(kind: Kind, number: int) -> Sandbox:
    return Sandbox(SandboxId(f"s{number}"), f"c{number}", kind, "10.0.0.2", listens=True)


kinds = st.builds(Kind, st.sampled_from(["outside", "none"]), st.sampled_from([4200, 4300]))
networks = st.lists(st.sampled_from(["outside", "none"]), unique=True)


@given(st.lists(kinds, max_size=12), networks, st.integers(0, 4))
def test_the_stock_comes_to_its_size_of_each_kind_that_is_asked_for_and_stays_there(
    there: list[Kind], wanted: Sequence[Network], size: int
) -> None:
    stock = [idle(kind, i) for i, kind in enumerate(there)]
    made = 0
    while (step := next_step(stock, wanted, 4200, size)).remove or step.make is not None:
        stock = [s for s in stock if s not in step.remove]
        if step.make is not None:
            made += 1
            stock.append(idle(step.make, 100 + made))
        assert made <= size * len(wanted)
    counted = {kind: sum(s.kind == kind for s in stock) for kind in {s.kind for s in stock}}
    assert counted == {Kind(n, 4200): size for n in wanted if size}


def test_what_is_short_most_is_made_first() -> None:
    stock = [idle(OUTSIDE, 1), idle(OUTSIDE, 2), idle(INSIDE, 3)]
    assert next_step(stock, ["outside", "none"], 4200, 3).make == INSIDE


def test_who_listens_on_the_proxys_port_itself_is_in_no_sandbox() -> None:
    assert suits(OUTSIDE, 8080)
    assert not suits(OUTSIDE, 4200)


def test_none_is_made_while_starts_follow_each_other_until_patience_ends() -> None:
    assert patience_s(10.0, last_start=10.0, lacking_since=10.0) == QUIET_S
    assert patience_s(11.0, last_start=10.0, lacking_since=10.0) == 0
    late = 10.0 + PATIENCE_S
    assert patience_s(late, last_start=late, lacking_since=10.0) == 0


# whose is whose


def sandbox_row(name: str, state: str = "running") -> dict[str, Any]:
    config = sandbox_config(SandboxId(name), OUTSIDE, "image", OURS, listens=True)
    networks = {"myxo0": {"IPAddress": "10.0.0.7"}}
    return {
        "Id": f"container-of-{name}",
        "State": state,
        "Labels": config["labels"],
        "NetworkSettings": {"Networks": networks},
        "HostConfig": {"NetworkMode": "myxo0"},
    }


def instance_row(name: str, mode: str, state: str = "running") -> dict[str, Any]:
    address = {} if mode.startswith("container:") else {"myxo0": {"IPAddress": "10.0.0.9"}}
    labels = {
        "myxo.service": "web",
        "myxo.revision": "1",
        "myxo.instance": name,
        "myxo.author": "someone",
        "myxo.spec": ServiceSpec(port=81).model_dump_json(),
    }
    return {
        "Id": f"container-of-{name}",
        "State": state,
        "Labels": OURS.labels() | labels,
        "NetworkSettings": {"Networks": address},
        "HostConfig": {"NetworkMode": mode},
    }


IN_S1 = joining("container-of-s1")


def test_an_instance_is_found_with_its_sandbox_and_at_its_address() -> None:
    found = sort_out([instance_row("i1", IN_S1), sandbox_row("s1")], [], [])
    ((running, sandbox),) = found.running
    assert (running.id, running.address) == ("i1", "10.0.0.7:81")
    assert sandbox is not None
    assert (sandbox.id, sandbox.kind, sandbox.listens) == ("s1", OUTSIDE, True)
    assert found.nobodys == ()


def test_an_instance_with_a_network_of_its_own_is_found_without() -> None:
    ((running, sandbox),) = sort_out([instance_row("i1", "myxo0")], [], []).running
    assert (running.address, sandbox) == ("10.0.0.9:81", None)


def test_a_sandbox_of_nobody_is_removed() -> None:
    assert sort_out([sandbox_row("s1")], [], []).nobodys == ("container-of-s1",)


def test_an_instance_that_never_started_goes_before_its_sandbox() -> None:
    rows = [sandbox_row("s1"), instance_row("i1", IN_S1, "created")]
    assert sort_out(rows, [], []).nobodys == ("container-of-i1", "container-of-s1")


def test_an_instance_whose_sandbox_has_ended_is_removed_with_it() -> None:
    rows = [sandbox_row("s1", "exited"), instance_row("i1", IN_S1)]
    assert sort_out(rows, [], []).nobodys == ("container-of-i1", "container-of-s1")


def test_what_is_known_already_is_left_alone() -> None:
    rows = [instance_row("i1", IN_S1), sandbox_row("s1"), sandbox_row("s2")]
    known = [SandboxId("s1"), SandboxId("s2")]
    found = sort_out(rows, [InstanceId("i1")], known)
    assert (found.running, found.nobodys) == ((), ())


def test_labels_that_cannot_be_read_make_no_sandbox() -> None:
    row = sandbox_row("s1")
    row["Labels"] |= {"myxo.sandbox-network": "moon"}
    found = sort_out([row, instance_row("i1", IN_S1)], [], [])
    assert found.nobodys == ("container-of-i1", "container-of-s1")


def test_a_sandbox_may_do_nothing() -> None:
    limits = sandbox_limits(INSIDE)
    assert limits["network_mode"] == "myxo1"
    assert limits["cap_drop"] == ["ALL"]
    assert limits["security_opt"] == ["no-new-privileges"]
    assert limits["read_only"]
    assert limits["mem_limit"] == limits["memswap_limit"] == 6 * 1024 * 1024
    assert limits["pids_limit"] <= 16
