import re
from math import inf, nan

from proxy.telemetry.timing import MAX_FOREIGN_PHASES, Timing


def names(timing: Timing) -> list[str]:
    return re.findall(r"([\w-]+);dur=\d+\.\d{3}", timing.header().decode())


def test_phases_stand_in_the_order_in_which_they_ended() -> None:
    timing = Timing()
    timing.mark("lookup")
    timing.add({"create": 0.25, "start": 0.5})
    timing.mark("forward")
    assert names(timing) == ["lookup", "create", "start", "forward"]
    assert b"create;dur=250.000, start;dur=500.000" in timing.header()


def test_what_another_peer_measured_cannot_break_the_field() -> None:
    timing = Timing()
    timing.add({"a\r\nSet-Cookie: x": 1.0, "": 1.0, "b": inf, "c": nan, "é": 1.0, "ok": 1.0})
    assert timing.header() == b"ok;dur=1000.000"


def test_another_peer_cannot_make_the_field_grow_without_bounds() -> None:
    timing = Timing()
    timing.add({f"p{n}": 0.0 for n in range(10_000)})
    assert len(names(timing)) == MAX_FOREIGN_PHASES
