"""What the benchmark of maps makes of what it measured, and that its engines compute."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.client import AnswerFailed
from bench.map import figures
from bench.map.__main__ import _parser, plan_of
from bench.map.beside import ColdStarts
from bench.map.contender import contender
from bench.map.engines import ENGINES
from bench.map.jobs import WrongResult, factorials, noops, noops_each, warm
from bench.map.plan import FULL, QUICK, Found
from bench.map.plot import plot
from bench.map.tables import figures_of, text_of
from bench.map.tasks import factorial


def test_the_break_even_lies_between_two_sizes_on_straight_logarithmic_lines() -> None:
    # Twice as slow at 100, twice as fast at 10,000: even in the middle of the logarithms.
    assert figures.break_even([(100, 1, 2), (10_000, 2, 1)]) == pytest.approx(1000)


def test_only_the_last_crossing_counts() -> None:
    points = [(1, 1, 0.5), (10, 1, 2), (1000, 2, 1)]
    assert figures.break_even(points) == pytest.approx(100)


def test_a_map_that_is_faster_at_once_or_never_is_said_to_be() -> None:
    assert figures.break_even([(100, 2, 1), (1000, 2, 1)]) == 100
    assert figures.break_even([(100, 1, 1)]) == 100
    assert figures.break_even([(100, 2, 1), (1000, 1, 2)]) is None


@given(st.integers(1, 100_000), st.integers(1, 16))
def test_chunks_that_are_tried_cover_the_items(items: int, workers: int) -> None:
    sizes = figures.chunks_to_try(items, workers)
    assert sizes[0] * workers >= items
    assert all(1 <= size <= items for size in sizes)
    assert sizes == sorted(set(sizes), reverse=True)


def test_the_best_peer_is_the_one_with_the_least_median() -> None:
    peers = {"ray": [9.0, 1.0, 2.0], "dask": [3.0, 3.0, 0.0], "joblib": [4.0, 4.0, 4.0]}
    taken = {"myxo": [0.1], "pool": [0.1]} | peers
    assert figures.best_peer(taken) == "ray"


def found() -> Found:
    paced = {"undisturbed": [5.0], "slow": [7.0], "killed": [6.0]}
    noop = {"myxo": [2e-6], "pool": [1e-6], "ray": [4e-6], "dask": [9e-6], "joblib": [5e-6]}
    return Found(
        noop=noop,
        each={"ray": [1e-4], "dask": [2e-4]},
        chunks=dict.fromkeys(noop, 50_000) | {"myxo": None},
        speed={"loop": [4.0], "myxo": [2.0], "pool": [2.5]},
        sizes={100: {"loop": [1.0], "myxo": [2.0]}, 10_000: {"loop": [2.0], "myxo": [1.0]}},
        values={100: {"loop": [1.0], "myxo": [2.0]}},
        arrays={"myxo": [1.0], "ray": [4.0]},
        copies={"there": 0.01, "back": 1.0},
        paced=paced,
        paced_workers=[4, 4, 5],
        memory={"settled_mib": 50.0, "most_mib": 51.5},
        colds=ColdStarts([0.05, 0.07, 0.06], [0.1, 0.3, 0.2], items=1234),
    )


def found_over_links() -> Found:
    ways = {"loop": [1.0], "0 ms": [1.0], "20 ms": [1.5]}
    return Found(sizes={100: ways, 10_000: ways | {"loop": [4.0]}}, values={7: ways})


def test_ratios_are_what_the_page_says() -> None:
    said = figures_of(found(), FULL)
    assert said["noop_ratio_best_peer"] == pytest.approx(0.5)
    assert said["noop_best_peer"] == "ray"
    assert said["noop_ratio_ray"] == pytest.approx(0.02)
    assert said["noop_ratio_dask"] == pytest.approx(0.01)
    assert said["speedup"] == pytest.approx(2.0)
    assert said["ratio_pool"] == pytest.approx(1.25)
    assert (said["noop_runs"], said["speed_runs"]) == (1, 1)
    assert said["break_even_items"] == pytest.approx(1000)
    assert said["break_even_value"] is None
    # 2,000 items of 10 ms over three workers and a tenth of one.
    assert said["one_slow_ratio"] == pytest.approx(7.0 / (20 / 3.1))
    assert said["killed_ratio"] == pytest.approx(1.2)
    assert said["flow_growth_mib"] == pytest.approx(1.5)
    assert said["arrays_ratio_ray"] == pytest.approx(0.25)
    assert said["array_copies"] == {"there": 0.01, "back": 1.0}
    assert said["cold_alone_ms"] == pytest.approx(60)
    assert said["cold_beside_map_ms"] == pytest.approx(200)
    assert said["cold_beside_map_max_ms"] == pytest.approx(300)


def test_a_link_has_a_break_even_and_a_penalty_of_its_own() -> None:
    plan = replace(FULL, links=[20])
    said = figures_of(found_over_links(), plan)
    assert said["break_even_items_0ms"] == 100
    assert 100 < said["break_even_items_20ms"] < 10_000
    assert said["break_even_value_20ms"] is None
    assert said["penalty_items_20ms_s"] == {"100": 0.5, "10000": 0.5}
    assert said["penalty_value_20ms_s"] == {"7": 0.5}
    text = text_of(found_over_links(), plan)
    assert "Myxo, 20 ms away is no slower: from " in text
    assert "speed-up" not in text


def test_the_tables_show_each_part_that_was_measured() -> None:
    text = text_of(found(), FULL)
    assert "myxo, chunks by itself" in text
    assert "Myxo is no slower: from 1,000 on" in text
    assert "Myxo is no slower: never" in text
    assert "took part" not in text
    fewer = found()
    fewer.paced_workers.append(3)
    assert "only 3 took part" in text_of(fewer, FULL)
    alone = Found(speed=found().speed, sizes=found().sizes, values=found().values)
    assert "killed" not in text_of(alone, FULL)
    assert "noop_ratio_ray" not in figures_of(alone, FULL)
    assert "1,234 items meanwhile" in text
    assert "meanwhile" not in text_of(alone, FULL)
    assert set(figures_of(Found(), FULL)) == {"workers", "runs"}


def test_the_sweeps_are_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plot(found().sizes, found().values, tmp_path / "sweeps.svg")
    assert "<svg" in (tmp_path / "sweeps.svg").read_text()
    far = found_over_links()
    plot(far.sizes, far.values, tmp_path / "far.svg")
    assert "myxo.map, 20 ms away" in (tmp_path / "far.svg").read_text()


def test_the_command_line_changes_the_plan() -> None:
    words = "--quick --sizes 1e3,100 --values 7 --chunk 5 --workers 3 --runs 1 --bootstrap a:1"
    plan = plan_of(_parser().parse_args(words.split()))
    assert (plan.sizes, plan.values, plan.chunk) == ([100, 1000], [7], 5)
    assert (plan.workers, plan.runs, plan.bootstrap) == (3, 1, "a:1")
    assert plan.flow_items == QUICK.flow_items
    assert plan_of(_parser().parse_args([])) == FULL
    assert plan_of(_parser().parse_args(["--links", "100,20"])).links == [20, 100]
    assert plan_of(_parser().parse_args(["--only", "colds"])).only == "colds"


@pytest.mark.parametrize("words", ["--sizes 0", "--sizes 1.5", "--runs many"])
def test_numbers_that_are_none_are_refused(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        _parser().parse_args(words.split())
    assert "error: argument" in capsys.readouterr().err


def test_the_loop_is_right_and_a_wrong_engine_is_caught() -> None:
    assert factorial(5) == 120

    class Forgetful:
        def map(self, function: Any, items: Any, _chunk: int | None) -> list[Any]:
            return [function(item) for item in items][:-1]

        each = None

    with ENGINES["loop"](1) as loop:
        assert factorials(loop, 10, 20) > 0
        assert noops(loop, 10) > 0
        assert noops_each(loop, 0.001, 500) > 0
    with pytest.raises(WrongResult):
        noops(Forgetful(), 10)  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pool", "joblib", "dask"])
def test_an_engine_in_its_process_computes_with_all_its_workers(name: str, tmp_path: Path) -> None:
    with contender(name, 2, tmp_path, dict(os.environ)) as one:
        assert one.ask("noops", items=100, chunk=30) > 0
        assert one.ask("noops_each", seconds=0.001, most=200) > 0
        assert one.ask("pauses", items=20, pause_s=0.001, chunk=1)["seconds"] > 0.02 / 2
        with pytest.raises(AnswerFailed, match="TypeError: only Myxo"):
            one.ask("flow", items=10)


@pytest.mark.slow
def test_an_engine_that_cannot_start_says_so(tmp_path: Path) -> None:
    with (
        pytest.raises(AnswerFailed, match="KeyError: 'nobody'"),
        contender("nobody", 1, tmp_path, dict(os.environ)),
    ):
        pass


def test_a_loop_is_warm_by_itself() -> None:
    with ENGINES["loop"](1) as loop:
        assert warm(loop, 2) == 1
