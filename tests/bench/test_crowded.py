import pytest

from bench.crowded import Crowded, report, selection_us


def test_the_figures_say_what_each_instance_costs() -> None:
    before, after = {"rss": 100.0, "pss": 80.0}, {"rss": 106.0, "pss": 85.0}
    found = Crowded(250, 18.5, 50_000, 249, 0.08, 900.0, before, after, (40, 290))
    made = report(found, {1: 0.1, 250: 2.5})
    assert made.figures["instances_reached"] == 249
    assert made.figures["pool_bytes_each"] == pytest.approx(5 * 1024 * 1024 / 250)
    assert made.figures["select_us_250"] == 2.5
    assert "249, 50,000" in made.text


def test_the_choices_are_timed_at_each_size() -> None:
    assert selection_us(picks=10).keys() == {1, 10, 250}
