from pathlib import Path

import pytest

from bench.lab.errors import BadInput
from bench.lab.queueing.figures import Figures
from bench.lab.queueing.results import Results, WorkerResult
from bench.lab.queueing.settings import QueueSettings
from bench.lab.queueing.showing import run_text
from overlay.errors import SettingsInvalid

ABOUT = {"policy": "round_robin", "ST": 100.0}


def result(worker: int) -> WorkerResult:
    found = Figures(5.059453, 0.001481, 0.027417, 341708.5625, 100, 1.0, 2.0, 3.0)
    return WorkerResult(worker, 34, 4483.375, "abc", found)


def test_a_run_is_kept_and_shown_again(tmp_path: Path) -> None:
    store = Results(tmp_path / "queues")
    name = store.keep(ABOUT, [result(2), result(1)])
    assert name == "W2_round_robin_T1"
    again = Results(tmp_path / "queues").run(name)
    assert again.workers == [result(1), result(2)]
    assert again.about == ABOUT
    text = run_text(again)
    for figure in ("5.059453", "0.001481", "0.027417", "341708.562", "50.0%", "4483.375"):
        assert figure in text


def test_runs_are_numbered_by_workers_and_policy(tmp_path: Path) -> None:
    store = Results(tmp_path)
    names = [store.keep(ABOUT, [result(1)]) for _ in range(3)]
    assert names == ["W1_round_robin_T1", "W1_round_robin_T2", "W1_round_robin_T3"]
    assert store.keep({"policy": "random"}, [result(1)]) == "W1_random_T1"
    assert sorted(store.runs()) == sorted([*names, "W1_random_T1"])


def test_a_run_that_was_begun_and_not_kept_is_none(tmp_path: Path) -> None:
    (tmp_path / "W1_random_T1").mkdir()
    store = Results(tmp_path)
    assert store.runs() == []
    assert store.keep({"policy": "random"}, [result(1)]) == "W1_random_T2"


def test_a_run_that_is_not_there_is_said_to_be_so(tmp_path: Path) -> None:
    store = Results(tmp_path)
    store.keep(ABOUT, [result(1)])
    with pytest.raises(BadInput, match="did you mean W1_round_robin_T1"):
        store.run("W1_round_robin_T2")
    with pytest.raises(BadInput, match=r"no run '\.\.'"):
        store.run("..")


def test_a_run_that_somebody_damaged_is_named(tmp_path: Path) -> None:
    store = Results(tmp_path)
    name = store.keep(ABOUT, [result(1)])
    (tmp_path / name / "worker-1.json").write_text("{}")
    with pytest.raises(BadInput, match=f"{name} cannot be read"):
        store.run(name)


def test_of_more_runs_than_are_kept_the_oldest_go(tmp_path: Path) -> None:
    store = Results(tmp_path, most=3)
    names = [store.keep(ABOUT, [result(1)]) for _ in range(2)]
    other = store.keep({"policy": "random"}, [result(1)])
    names += [store.keep(ABOUT, [result(1)]) for _ in range(2)]
    assert store.runs() == [other, *names[2:]]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(store.runs())


def test_a_run_that_is_about_to_be_kept_is_not_removed(tmp_path: Path) -> None:
    store = Results(tmp_path, most=1)
    (tmp_path / "W1_random_T1").mkdir()
    store.keep(ABOUT, [result(1)])
    assert (tmp_path / "W1_random_T1").is_dir()


def test_how_many_are_kept_is_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    assert QueueSettings.load({}).keep_runs == 200
    monkeypatch.setenv("MYXO_LAB_QUEUES_KEEP_RUNS", "7")
    assert QueueSettings.load({}).keep_runs == 7
    monkeypatch.setenv("MYXO_LAB_QUEUES_KEEP_RUNS", "0")
    with pytest.raises(SettingsInvalid, match="keep_runs"):
        QueueSettings.load({})
