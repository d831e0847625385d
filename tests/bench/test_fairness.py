import shutil
from pathlib import Path

import pytest

from bench import delayed
from bench.client import OK, ask
from bench.fairness import Found, report
from bench.stats import share_deviation


def test_the_share_that_is_farthest_from_a_fair_one_counts() -> None:
    assert share_deviation([500, 500, 500]) == 0
    assert share_deviation([5, 745, 750]) == pytest.approx(0.99)
    assert share_deviation([0, 0, 1500]) == pytest.approx(2.0)


def test_the_figures_are_the_default_policys() -> None:
    found = {
        "myxo peak_ewma": Found(0.05, 0.010, 0.012, 0.01, recovery_s=2.0, new_share=1.1),
        "myxo round_robin": Found(0.0, 0.010, 0.1, 0.33),
        "envoy least_request": Found(0.02, 0.008, 0.04, 0.1),
    }
    made = report(found)
    assert made.figures["max_share_deviation"] == 0.05
    assert made.figures["p99_ratio_one_slow"] == pytest.approx(1.2)
    assert made.figures["envoy_least_request_p99_ratio_one_slow"] == pytest.approx(5.0)
    assert "| myxo round_robin" in made.text


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_a_delayed_backend_counts_and_takes_as_long_as_it_is_told(tmp_path: Path) -> None:
    with delayed.backends(tmp_path, [0.0, 0.0]) as (one, other):
        before = one.count
        assert ask(f"http://127.0.0.1:{one.port}/").status == OK
        assert one.count == before + 1
        assert other.count == 1  # the one that showed that it answers
        assert one.pid != other.pid
        one.take(0.2)
        assert ask(f"http://127.0.0.1:{one.port}/").first_byte_s >= 0.2
