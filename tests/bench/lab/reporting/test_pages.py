"""The report's files."""

import csv
import re
from dataclasses import replace
from pathlib import Path

import pytest

from bench.lab.errors import BadInput
from bench.lab.reporting.figures import Run, rows, spread
from bench.lab.reporting.pages import Report, figures
from bench.lab.reporting.plan import make_plan
from bench.lab.reporting.proxy_metrics import Counted, read

RUN = Run(
    variant="random, <kept>",
    service="hello",
    run=1,
    asked=100,
    answered=99,
    failed=1,
    unsent=2,
    p50_ms=10.0,
    p95_ms=20.0,
    p99_ms=30.0,
    deviation=0.1,
    instances=2,
    running_s=60.0,
    paused_s=0.0,
    starts=1,
    most=2,
    waited=5,
    counts=((0.0, 0), (1.0, 2), (30.0, 0)),
)
RUNS = [RUN, replace(RUN, run=2, p99_ms=50.0), replace(RUN, variant="random")]
METRICS = """
# TYPE myxo_proxy_start_seconds histogram
myxo_proxy_start_seconds_count{phase="create",service="hello"} 3.0
myxo_proxy_start_seconds_count{phase="ready",service="hello"} 5.0
# TYPE myxo_proxy_requests_in_flight gauge
myxo_proxy_requests_in_flight{service="hello"} 7.0
myxo_proxy_requests_in_flight{service="other"} 1.0
"""


def report() -> Report:
    plan = make_plan({"services": ["hello"], "policies": ["random"], "runs": 2})
    return Report(plan, RUNS, "a machine")


def test_a_row_has_the_mean_of_the_runs_and_its_interval() -> None:
    row = rows(RUNS)[0]
    assert (row.variant, row.runs) == ("random, <kept>", 2)
    p99 = row.values["p99_ms"]
    assert p99.mean == 40
    assert p99.half == pytest.approx(12.706 * 10, rel=1e-3)  # t of one degree of freedom
    assert row.values["not_served"].mean == 3


def test_one_run_has_no_interval() -> None:
    told = figures(report())
    assert told[1]["p99_ms"] == {"mean": 30.0, "half": None}


def test_the_page_needs_no_other_file_and_shows_names_as_they_are(tmp_path: Path) -> None:
    report().write(tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert page.count("<svg") == 6
    assert "random, &lt;kept&gt;" in page
    assert not re.search(r"<(img|link|script)|url\(http", page)


def test_markdown_names_pictures_that_are_there_and_runs_are_kept(tmp_path: Path) -> None:
    report().write(tmp_path)
    named = re.findall(r"\]\((.*?)\)", (tmp_path / "report.md").read_text())
    assert len(named) == 6
    assert all((tmp_path / name).read_text().startswith("<svg") for name in named)
    with (tmp_path / "runs.csv").open(newline="") as file:
        kept = list(csv.DictReader(file))
    assert [row["p99_ms"] for row in kept] == ["30.0", "50.0", "30.0"]


def test_the_same_runs_make_the_same_files(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        report().write(tmp_path / name)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "other" / path.name).read_bytes()


def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot be written"):
        report().write(tmp_path / "none")


def test_shares_are_those_of_the_instances_that_answered() -> None:
    assert spread(["a", "b", "", "a", "a"]) == (0.5, 2)
    assert spread(["", ""]) == (0.0, 0)


def test_a_request_that_waited_for_a_start_counts_once() -> None:
    assert read(METRICS) == {"hello": Counted(5, 7), "other": Counted(0, 1)}
