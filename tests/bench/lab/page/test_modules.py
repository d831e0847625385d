"""The page's pure modules, run where they run: in Chromium."""

import math
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.bench.lab.page.conftest import Page
else:
    Page = Any

pytestmark = pytest.mark.slow

POINTS = [{"x": 0.1, "y": 0.2}, {"x": 0.4, "y": 0.9}, {"x": 0.5, "y": 0.1}, {"x": 0.9, "y": 1}]


def call(page: Page, module: str, function: str, *given: Any) -> Any:
    """Return what a module's function returns."""
    return page.browser.script(
        "const [url, name, given] = arguments;"
        "return import(url).then(module => module[name](...given))",
        *(f"{page.url}/{module}.js", function, given),
    )


def test_pure_modules(page: Page) -> None:
    page.go("experiments")
    a_curve_goes_through_its_points(page)
    a_rate_is_the_curves_height_rounded_up(page)
    times_are_read_as_the_api_reads_them(page)
    pieces_of_a_course_become_one(page)


def a_curve_goes_through_its_points(page: Page) -> None:
    for point in POINTS:
        assert call(page, "curve", "heightAt", POINTS, point["x"]) == pytest.approx(point["y"])
    heights = [call(page, "curve", "heightAt", POINTS, x / 40) for x in range(41)]
    assert heights[0] == pytest.approx(0.2)
    assert all(0 <= height <= 1 for height in heights)
    assert call(page, "curve", "heightAt", [], 0.5) == 0


def a_rate_is_the_curves_height_rounded_up(page: Page) -> None:
    ticks = call(page, "curve", "ticksOf", POINTS, 10, 1000)
    middles = [call(page, "curve", "heightAt", POINTS, (i + 0.5) / 10) for i in range(10)]
    assert ticks == [math.ceil(round(1000 * height, 9)) for height in middles]
    flat = [{"x": 0.5, "y": 0.07}]
    assert call(page, "curve", "ticksOf", flat, 3, 100) == [7, 7, 7], "and not 8 of 7.000000000001"


def times_are_read_as_the_api_reads_them(page: Page) -> None:
    for text, seconds in (("10s", 10), ("2m", 120), ("1.5h", 5400), ("500ms", 0.5), ("7", 7)):
        assert call(page, "submission", "seconds", text) == pytest.approx(seconds)
    assert call(page, "submission", "intervals", "10s", "2s") == 5
    for duration, interval in (("10s", "3s"), ("ten", "1s"), ("10s", "0s")):
        assert call(page, "submission", "intervals", duration, interval) is None  # JSON has no NaN


def pieces_of_a_course_become_one(page: Page) -> None:
    def piece(times: list[int], cpu: dict[str, list[int]]) -> dict[str, Any]:
        rates = dict.fromkeys(("asked", "answered", "failed"), times)
        return {"times": times, **rates, "latencies": {"p50": times}, "cpu": cpu}

    old, fresh = piece([0, 1, 2], {"a": [7, 7, 7]}), piece([2, 3], {"b": [9, 9]})
    joined = call(page, "course", "joined", old, fresh)
    assert joined["times"] == joined["asked"] == joined["latencies"]["p50"] == [0, 1, 2, 3]
    assert joined["cpu"] == {"a": [7, 7, None, None], "b": [None, None, 9, 9]}
    assert call(page, "course", "joined", old, piece([], {}))["times"] == [0, 1, 2]
