"""What `bench.dialog` plays and says; the port itself runs in tests/demos/test_dialog.py."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bench import backend
from bench.client import OK, ask
from bench.dialog import FULL, QUICK, Found, Plan, compared, report, speedups
from bench.dialog_phases import Phase, Played, Wave, bursts, killing, played, rising
from bench.dialog_programs import PATHS, Monolith, await_all, instances, monolith
from bench.errors import NetworkFailed
from bench.open_load import Sent

needs_cc = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")


def due_at(phase: Phase, moment: float) -> float:
    """Return the rate to each service at a moment."""
    return sum(w.rate for w in phase.waves if w.begins_s <= moment < w.begins_s + w.lasts_s)


def test_a_load_rises_in_steps_that_are_changes() -> None:
    phase = rising(steps=3, step_s=2.0, rate=50)
    assert [due_at(phase, at) for at in (0, 1.9, 2, 3.9, 4, 5.9, 6)] == [
        50,
        50,
        100,
        100,
        150,
        150,
        0,
    ]
    assert phase.changes == (0.0, 2.0, 4.0)
    assert phase.lasts_s == 6.0


def test_bursts_are_on_top_of_a_load() -> None:
    phase = bursts(count=2, every_s=5.0, burst=Wave(1.0, 0.5, 200), rate=25)
    assert [due_at(phase, at) for at in (0, 1, 1.5, 6, 6.5, 10)] == [25, 225, 25, 225, 25, 0]
    assert phase.changes == (1.0, 6.0)


@pytest.mark.parametrize("plan", [FULL, QUICK])
def test_waves_begin_in_order_and_before_a_kill(plan: Plan) -> None:
    for phase in plan.phases:
        begins = [wave.begins_s for wave in phase.waves]
        assert begins == sorted(begins)
        assert phase.kill_s is None or begins[-1] < phase.kill_s < phase.lasts_s


@needs_cc
def test_waves_are_played_when_they_are_due_and_a_kill_is_a_change() -> None:
    phase = Phase("x", "x", (Wave(0.0, 0.4, 50), Wave(0.2, 0.2, 100)), (0.2,), kill_s=0.3)
    kills: list[None] = []
    with backend.serving() as port:
        urls = dict.fromkeys(("one", "other"), f"http://127.0.0.1:{port}/")
        found = played(phase, urls, lambda: kills.append(None))
    assert len(kills) == 1
    for sent in found.sent.values():
        assert [one.status for one in sent] == [OK] * 40
        assert sum(one.due_s < 0.2 for one in sent) <= 10
    assert found.changes[0] == 0.2
    assert found.changes[1] >= 0.3
    assert [until for _, until in found.spans] == [found.changes[1], 0.4]


def test_a_speedup_is_the_monoliths_latency_by_the_ports() -> None:
    slow = [Sent(0, 0.030, 200), Sent(0, 0.030, 200), Sent(0, 0.080, 200), Sent(0, 9.0, 0)]
    fast = [Sent(0, 0.010, 200), Sent(0, 0.020, 200), Sent(0, 0.160, 200)]
    assert speedups(slow, fast) == pytest.approx({"p50": 1.5, "p99": 0.5})
    assert speedups(slow, [Sent(0, 0.001, 503)]) == {"p50": None, "p99": None}


def test_figures_are_by_program_load_and_service() -> None:
    phase = killing(at_s=1.0, lasts_s=3.0, rate=100)
    dues = [n / 100 for n in range(300)]
    steady = [Sent(due, 0.002, 200) for due in dues]
    broken = [Sent(due, 0.004, 0 if 1 <= due < 2.2 else 200) for due in dues]
    lost = [Sent(due, 0.004, 0) for due in dues]
    one, other = Found(), Found()
    one.take(Played(dict.fromkeys(PATHS, broken), (1.0,), 3.0))
    one.take(Played(dict.fromkeys(PATHS, lost), (1.0,), 3.0))
    other.take(Played(dict.fromkeys(PATHS, steady), (1.0,), 3.0))
    made = report([phase], {"kill": {"monolith": one, "port": other}})
    figures = json.loads(json.dumps(dict(made.figures), allow_nan=False))
    assert figures["monolith_kill_requests"] == 1800
    assert figures["monolith_kill_availability"] == pytest.approx(0.3)
    assert figures["monolith_kill_adapt_max_s"] is None
    assert figures["port_kill_availability"] == figures["port_kill_in_time"] == 1
    assert figures["port_kill_adapt_s"] == 0
    assert figures["port_kill_p99_ms"] == pytest.approx(2)
    assert figures["films_kill_p50_speedup"] == pytest.approx(2)
    assert "| an instance killed: monolith | " in made.text
    assert "not in time" in made.text


def test_the_median_change_counts_beside_the_longest() -> None:
    found = Found()
    dues = [n / 100 for n in range(600)]
    sent = [Sent(due, 0.3 if 2 <= due < 2.4 or 4 <= due < 5.2 else 0.001, 200) for due in dues]
    found.take(Played(dict.fromkeys(PATHS, sent), (0.0, 2.0, 4.0), 6.0))
    assert found.adapted == pytest.approx([0.0, 0.5, 1.5])


def test_instances_are_found_among_what_a_program_has_started() -> None:
    told = os.environ | {"PUMA_FUNCTION": "agent"}
    server = [sys.executable, "-c", "print(flush=True); input()", "myxo.puma.server"]
    pipe = subprocess.PIPE
    with subprocess.Popen(server, env=told, stdin=pipe, stdout=pipe) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == b"\n"  # before, /proc may not have its words yet
            assert instances(os.getpid(), "agent") == [child.pid]
            with pytest.raises(NetworkFailed, match="no instance of films"):
                instances(os.getpid(), "films")
        finally:
            child.kill()


@needs_cc
@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_monolith_that_is_killed_under_load_is_started_again(tmp_path: Path) -> None:
    pytest.importorskip("flask")
    plan = Plan((killing(at_s=0.5, lasts_s=1.0, rate=20),), rounds=1)
    with monolith(tmp_path) as program:
        assert isinstance(program, Monolith)
        before = program.pid
        found = compared(plan, {"monolith": program})["kill"]["monolith"]
        assert program.pid != before
        assert [len(found.sent[service]) for service in PATHS] == [20, 20, 20]
        assert any(one.status == OK for one in found.together)
        await_all(program)
        for url in program.urls.values():
            assert ask(url).status == OK
