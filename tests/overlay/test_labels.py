import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.labels import MAX_LABELS, parse_labels, unmet
from overlay.records import PeerRecord, Role, Version


def called(**labels: str) -> dict[str, frozenset[str]]:
    return {label: frozenset({value}) for label, value in labels.items()}


def reasons(constraints: dict[str, tuple[str, ...]], **labels: str) -> list[str]:
    return list(unmet(constraints, called(**labels)))


def test_one_of_several_values_is_enough() -> None:
    assert reasons({"zone": ("a", "b")}, zone="b") == []
    assert reasons({"zone": ("a", "b")}, zone="c") == ["its zone is c, the service wants a or b"]


def test_a_label_that_a_machine_lacks_is_none_of_the_values() -> None:
    assert reasons({"zone": ("a",)}) == ["its zone is not set, the service wants a"]
    assert reasons({"zone": ("!a",)}) == []


def test_an_excluded_value_is_named() -> None:
    assert reasons({"disk": ("!hdd",)}, disk="hdd") == [
        "its disk is hdd, which the service excludes"
    ]
    assert reasons({"disk": ("!hdd",)}, disk="ssd") == []
    assert reasons({"disk": ("!hdd", "ssd")}, disk="nvme") == [
        "its disk is nvme, the service wants ssd"
    ]


def test_what_a_machine_says_of_itself_beats_its_operator() -> None:
    record = PeerRecord(
        version=Version(epoch=1.0, counter=1),
        role=Role.ALLOCATOR,
        host="edge-1",
        platform="linux/arm64",
        runtimes=("docker", "process"),
        labels={"host": "other", "zone": "a"},
    )
    assert list(unmet({"host": ("edge-1",), "zone": ("a",)}, record.called)) == []
    assert list(unmet({"runtime": ("docker",)}, record.called)) == []
    assert list(unmet({"runtime": ("!process",)}, record.called)) != []


def test_labels_are_read_as_name_and_value() -> None:
    assert parse_labels(["zone=a", "rack=r/7:b", "zone=b"]) == {"zone": "b", "rack": "r/7:b"}


@pytest.mark.parametrize("text", ["zone", "=a", "zone=", "zone=a b", "zone=!a", "host=me", "-=a"])
def test_what_is_no_label_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"NAME=VALUE|says of itself"):
        parse_labels([text])


def test_a_machine_has_a_bounded_number_of_labels() -> None:
    with pytest.raises(ValueError, match="may have 32"):
        parse_labels([f"l{n}=v" for n in range(MAX_LABELS + 1)])


values = st.sampled_from("abc")


@given(st.lists(st.sampled_from(["a", "b", "c", "!a", "!b", "!c"]), min_size=1), values)
def test_it_agrees_with_reading_the_values_one_by_one(wanted: list[str], has: str) -> None:
    allowed = f"!{has}" not in wanted and (
        has in wanted or all(value.startswith("!") for value in wanted)
    )
    assert (reasons({"zone": tuple(wanted)}, zone=has) == []) is allowed
