"""The page in a real Chromium: draw an experiment, watch it, cancel, compare, take it away."""

import csv
import io
import json
import time
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from bench.browser import KEYS
from overlay.balancing import POLICIES

if TYPE_CHECKING:
    from tests.bench.lab.page.conftest import Page
else:
    Page = Any

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

TOKEN = "correct-horse-battery"
CURVE = [(0.02, 0.9), (0.3, 0.2), (0.6, 0.5), (0.98, 0.1)]
WAIT_S = 60.0


def name_it(page: Page, name: str, *, duration: str = "4s", most: int = 20) -> None:
    """Fill the form's fields; the curve is not drawn yet."""
    browser = page.browser
    browser.type("input[name=name]", name)
    browser.retype("input[name=duration]", duration)
    browser.type("input[name=service]", "squeezenet")
    browser.retype("input[name=most]", str(most))


def saved(folder: Path, name: str) -> bytes:
    """Return a file that the browser saves, once it is whole."""
    deadline = time.monotonic() + WAIT_S
    file = folder / name  # Chromium makes it empty first, and moves what it has loaded over it
    while not (file.exists() and file.stat().st_size):
        assert time.monotonic() < deadline, list(folder.iterdir())
        time.sleep(0.05)
    return file.read_bytes()


def agree(page: Page) -> None:
    """Answer the question that the page asks."""
    page.browser.await_text("#ask-text", "?")
    page.browser.click("#ask-yes")


def await_status(page: Page, exp_id: str, status: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while (now := page.shown(exp_id)["status"]) != status:
        assert time.monotonic() < deadline, now
        time.sleep(0.05)


def test_a_drawn_experiment_is_queued_run_and_watched(page: Page) -> None:
    page.go("new")
    name_it(page, "drawn")
    page.browser.draw("canvas", CURVE)
    page.browser.click("form#create button:not([type])")
    page.browser.await_text("#watch-title", "drawn")
    page.browser.await_text("#watch-state", "It has finished after")
    exp_id = page.browser.script("return location.hash.split('/').at(-1)")
    shown = page.shown(exp_id)
    ticks = shown["configuration"]["workloads"][0]["ticks"]
    assert ticks[1] > ticks[2] < ticks[3], "as it was drawn"
    assert ticks[0] < ticks[1] <= 20
    assert all(tick == int(tick) for tick in ticks)
    assert shown["status"] == "FINISHED"
    assert shown["summary"]["requests"] > 10
    (figures,) = page.browser.texts("#watch-figures")
    assert str(shown["summary"]["requests"]) in figures
    charts = page.browser.script(
        "return [...document.querySelectorAll('#watch-charts svg[role=img]')]"
        ".map(e => e.getAttribute('aria-label'))"
    )
    assert [chart.split(".")[0] for chart in charts] == ["Rate", "Latency", "Processors"]
    assert "nothing yet" not in charts[0]
    assert "h1: last" in charts[2]


def test_what_is_lacking_is_said_and_nothing_is_queued(page: Page) -> None:
    page.go("new")
    page.browser.retype("input[name=clients]", "0")
    page.browser.click("form#create button:not([type])")
    (problems,) = page.browser.texts("#problems")
    assert problems.splitlines() == [
        "Workload 1: it has no service.",
        "Workload 1: it needs 1 client or more on each host.",
        "Workload 1: its curve is empty: draw one.",
    ]
    page.browser.click(".remove")
    page.browser.click("#balancing summary")
    page.browser.click("#policies input[value='']")
    page.browser.click("form#create button:not([type])")
    assert "No balancing policy is chosen" in page.browser.texts("#problems")[0]
    assert "There is no workload" in page.browser.texts("#problems")[0]
    assert page.api.get("/experiments").json() == []


def test_a_curve_can_be_made_with_keys_alone(page: Page) -> None:
    page.go("new")
    name_it(page, "typed", duration="2s", most=100)
    page.browser.script("document.querySelector('canvas').focus()")
    page.browser.type("canvas", KEYS["Enter"] + KEYS["Up"] * 5 + KEYS["Right"] * 3)
    assert page.browser.texts(".spoken") == ["Point 1 of 1: at 1.12 s 60 requests/s"]
    page.browser.type("canvas", KEYS["Enter"] + KEYS["Down"] * 40 + KEYS["PageUp"])
    assert page.browser.texts(".spoken") == ["Point 2 of 2: at 1.12 s 60 requests/s"]
    rates = page.browser.script("return document.querySelector('textarea').value")
    assert rates.split(", ")[1] == "60"
    page.browser.type("canvas", KEYS["Delete"] * 2)
    assert page.browser.texts(".spoken") == ["The curve is empty."]


def test_rates_can_be_given_as_numbers(page: Page) -> None:
    page.go("new")
    name_it(page, "numbers", duration="3s")
    page.browser.click(".workload summary")
    page.browser.type("textarea", "1, 2.5 3")
    page.browser.click("form#create button:not([type])")
    page.browser.await_text("#watch-title", "numbers")
    (found,) = page.api.get("/experiments").json()
    ticks = page.shown(found["id"])["configuration"]["workloads"][0]["ticks"]
    assert ticks == [1, 2.5, 3]


def test_what_waits_and_what_runs_can_be_cancelled(page: Page) -> None:
    running, waiting = (page.queue(name, seconds=60) for name in ("runs", "waits"))
    await_status(page, running, "RUNNING")
    page.go("experiments")
    page.browser.await_texts("[data-list=queued] tr[data-id]", 1)
    page.browser.click("[data-list=queued] button")
    agree(page)
    await_status(page, waiting, "CANCELLED")
    page.browser.await_texts("[data-list=finished] tr[data-id]", 1)
    page.browser.click("[data-list=running] button")
    agree(page)
    await_status(page, running, "CANCELLED")
    page.browser.await_texts("[data-list=finished] tr[data-id]", 2)


def test_ended_ones_come_eight_on_a_page_and_can_be_deleted(page: Page) -> None:
    page.queue("runs", seconds=120)
    ids = [page.queue(f"e{number}") for number in range(10)]
    for exp_id in ids:
        page.api.delete(f"/experiments/{exp_id}").raise_for_status()
    page.go("experiments")
    rows = page.browser.await_texts("[data-list=finished] tr[data-id]", 8)
    assert [row.split("\t")[0] for row in rows] == [f"e{number}" for number in range(9, 1, -1)]
    page.browser.await_text("[data-list=finished] .pages", "page 1 of 2")
    page.browser.click("[data-list=finished] [data-key=Next]")
    page.browser.await_text("[data-list=finished] .pages", "page 2 of 2")
    assert len(page.browser.texts("[data-list=finished] tr[data-id]")) == 2
    page.browser.click(f"[data-key='Delete {ids[0]}']")
    agree(page)
    page.browser.await_text("#notice", "e0 is deleted")
    assert page.api.get(f"/experiments/{ids[0]}").status_code == 404


def test_two_are_compared_side_by_side(page: Page) -> None:
    ids = [page.queue("slow", rate=5), page.queue("fast", rate=30)]
    await_status(page, ids[1], "FINISHED")
    page.go("experiments")
    page.browser.await_texts("[data-list=finished] tr[data-id]", 2)
    for exp_id in ids:
        page.browser.click(f"[data-key='choose {exp_id}']")
    page.browser.click("#compare")
    assert len(page.browser.await_texts("#compare-charts figure", 6)) == 6
    (figures,) = page.browser.texts("#compare-figures")
    assert figures.splitlines()[1].split("\t") == ["Figure", "slow", "fast", "Second ÷ first"]
    (rates,) = (line for line in figures.splitlines() if line.startswith("Requests/s"))
    assert float(rates.split("\t")[3].removesuffix(" ×")) > 2


def test_policies_are_queued_one_after_the_other_and_shown_side_by_side(page: Page) -> None:
    page.go("new")
    name_it(page, "spread", duration="2s")
    page.browser.draw("canvas", CURVE)
    page.browser.click("#balancing summary")
    page.browser.await_texts("#policies label", 1 + len(POLICIES))
    for name in ("", "round_robin", "random"):  # the first is chosen at first
        page.browser.click(f"#policies input[value='{name}']")
    assert page.browser.texts("#policies-chosen") == ["round_robin, random"]
    page.browser.click("#save")
    page.browser.await_text("#notice", "choose one balancing policy")
    page.browser.click("form#create button:not([type])")
    page.browser.await_text("#compare-figures", "finished\tfinished")
    assert len(page.browser.await_texts("#compare-charts figure", 6)) == 6
    heads, *rows = page.browser.texts("#compare-figures")[0].splitlines()[1:]
    assert heads.split("\t")[1:3] == ["spread, round_robin", "spread, random"]
    assert "Balancing\tround_robin\trandom\t" in rows
    found = [page.shown(one["id"])["configuration"] for one in page.api.get("/experiments").json()]
    assert [configuration.pop("policy") for configuration in found] == ["round_robin", "random"]
    assert found[0] == found[1], "the same load"


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_an_experiment_is_taken_away(page: Page, form: str) -> None:
    exp_id = page.queue("away")
    await_status(page, exp_id, "FINISHED")
    page.go(f"watch/{exp_id}")
    page.browser.await_texts(f"[data-export={form}]", 1)
    page.browser.click(f"[data-export={form}]")
    with zipfile.ZipFile(io.BytesIO(saved(page.folder, f"{exp_id}-{form}.zip"))) as archive:
        data = archive.read(f"{exp_id}/traces.{form}")
    if form == "csv":
        rows = list(csv.DictReader(io.StringIO(data.decode())))
        assert len(rows) == page.shown(exp_id)["summary"]["requests"]


def test_a_form_is_exported_and_imported_as_it_was(page: Page) -> None:
    page.go("new")
    name_it(page, "kept")
    page.browser.draw("canvas", CURVE)
    page.browser.type("input[name=parameters]", '{"path": "/predict"}')
    page.browser.click("#balancing summary")
    page.browser.await_texts("#policies label", 1 + len(POLICIES))
    for name in ("", "maglev"):
        page.browser.click(f"#policies input[value='{name}']")
    page.browser.click("#save")
    body = json.loads(saved(page.folder, "kept.json"))
    assert body["configuration"]["workloads"][0]["client_parameters"] == {"path": "/predict"}
    page.go("new")
    page.browser.type("#load", str(page.folder / "kept.json"))
    page.browser.await_text("#notice", "kept.json is in the form")
    page.browser.click("form#create button:not([type])")
    page.browser.await_text("#watch-title", "kept")
    (found,) = page.api.get("/experiments").json()
    ticks = page.shown(found["id"])["configuration"]["workloads"][0]["ticks"]
    assert ticks == body["configuration"]["workloads"][0]["ticks"]
    assert page.shown(found["id"])["configuration"]["policy"] == "maglev"


def test_what_is_no_experiment_is_not_imported(page: Page, tmp_path: Path) -> None:
    (tmp_path / "no.json").write_text('{"instructions": "sleep 1"}')
    page.go("new")
    page.browser.type("#load", str(tmp_path / "no.json"))
    page.browser.await_text("#notice", "no experiment with a configuration")


def test_an_error_of_the_api_is_shown(page: Page) -> None:
    page.go("watch/none")
    page.browser.await_text("#notice", "there is no experiment 'none'")


def test_the_page_asks_for_the_token_and_goes_on_with_it(guarded: Page) -> None:
    guarded.queue("secret", seconds=60)
    guarded.go("experiments")
    guarded.browser.await_text("#token", "asks for its token")
    guarded.browser.type("#token input", TOKEN)
    guarded.browser.click("#token button")
    assert "secret" in guarded.browser.await_texts("[data-list] tr[data-id]", 1)[0]


def test_nothing_is_fetched_from_elsewhere_and_nothing_is_refused(page: Page) -> None:
    page.browser.logged()  # what was before is read
    page.queue("all")
    for view in ("experiments", "new"):
        page.go(view)
        page.browser.await_text("#network", "h1, h2")
        hosts = page.browser.script(
            "return performance.getEntriesByType('resource').map(e => new URL(e.name).origin)"
        )
        assert set(hosts) == {page.url}
    assert page.browser.logged() == []


def test_every_field_has_a_name_for_who_does_not_see_it(page: Page) -> None:
    page.go("new")
    page.browser.await_text("#network", "h1")
    unnamed = page.browser.script(
        "return [...document.querySelectorAll('input, select, textarea, canvas, dialog')]"
        ".filter(e => !(e.labels?.length || e.ariaLabel || e.getAttribute('aria-labelledby')))"
        ".map(e => e.outerHTML)"
    )
    assert unnamed == []
