"""The report as files: a page that needs no other file, Markdown with pictures, and the figures.

report.html, report.md, *.svg, runs.csv and plan.json, from which the comparison can be repeated.
"""

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import IO

from bench.lab.errors import BadInput
from bench.lab.reporting.drawing import pictures
from bench.lab.reporting.figures import MEASURES, Row, Run, cells, rows
from bench.lab.reporting.plan import ReportPlan
from bench.stats import table

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse}td,th{padding:.2rem .6rem;border:1px solid #ccc;"
    "text-align:right}td:first-child,th:first-child{text-align:left}svg{max-width:100%;height:auto}"
)

_TITLES = {
    "latency": "Latency",
    "fairness": "Fairness",
    "cost": "Cost",
    "cold-starts": "Cold starts",
    "failures": "Failures",
    "instances": "Instances over time",
}


@dataclass(frozen=True, slots=True)
class Report:
    """A comparison that was run.

    Attributes:
        plan: what was compared.
        runs: what became of each.
        machine: on which the load was made, as a line of text.
    """

    plan: ReportPlan
    runs: Sequence[Run]
    machine: str

    def text(self) -> str:
        """Return the table as text."""
        return table(*_table(rows(self.runs)))

    def write(self, folder: Path) -> None:
        """Write all files.

        Raises:
            BadInput: the folder cannot be written.
        """
        found = rows(self.runs)
        drawn = dict(pictures(found, self.runs, self.plan.duration_s))
        try:
            for name, svg in drawn.items():
                (folder / f"{name}.svg").write_text(f"{svg}\n")
            (folder / "report.md").write_text(self._markdown(found, drawn))
            (folder / "report.html").write_text(self._html(found, drawn))
            (folder / "plan.json").write_text(self.plan.model_dump_json(indent=2) + "\n")
            with (folder / "runs.csv").open("w", newline="") as file:
                _write_runs(file, self.runs)
        except OSError as exc:
            raise BadInput(f"the report cannot be written to {folder}: {exc.strerror}") from exc

    def _markdown(self, found: Sequence[Row], drawn: Iterable[str]) -> str:
        parts = [f"# {self._title()}", self._what(), table(*_table(found)), *_notes()]
        parts += [f"## {_TITLES[name]}\n\n![{_TITLES[name]}]({name}.svg)" for name in drawn]
        return "\n\n".join(parts) + "\n"

    def _html(self, found: Sequence[Row], drawn: Mapping[str, str]) -> str:
        title = escape(self._title())
        parts = [
            "<!doctype html>",
            f'<html lang="en"><meta charset="utf-8"><title>{title}</title>',
            f"<style>{_STYLE}</style><h1>{title}</h1><p>{escape(self._what())}</p>",
            _html_table(*_table(found)),
            *(f"<p>{escape(note)}</p>" for note in _notes()),
            *(f"<h2>{_TITLES[name]}</h2>\n{svg}" for name, svg in drawn.items()),
            "</html>",
        ]
        return "\n".join(parts) + "\n"

    def _title(self) -> str:
        return f"Policies compared: {', '.join(self.plan.services)}"

    def _what(self) -> str:
        plan = self.plan
        return (
            f"{plan.runs} runs of each variant, {plan.duration_s:g} s each, in turn; profile "
            f"{plan.profile}, arrivals {plan.arrival}, seed {plan.seed}. Run k has the same "
            f"requests for all. {self.machine}"
        )


def _notes() -> Iterator[str]:
    yield "Means over the runs ± half of their 95 % confidence intervals by Student's t."
    yield "; ".join(f"{measure.title}: {measure.note}" for measure in MEASURES) + "."


def _table(found: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    several = len({row.service for row in found}) > 1
    columns = ["variant", *(["service"] if several else []), *(m.title for m in MEASURES)]
    lines = [[r.variant, *([r.service] if several else []), *cells(r)] for r in found]
    return columns, lines


def _html_table(columns: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join(
        f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in line)}</tr>\n" for line in lines
    )
    return f"<table><tr>{head}</tr>\n{body}</table>"


def _write_runs(file: IO[str], runs: Sequence[Run]) -> None:
    said = [run.figures() for run in runs]
    writer = csv.DictWriter(file, list(said[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(said)


def figures(report: Report) -> list[dict[str, object]]:
    """Return the table for a program: means and half widths; None where one run has none."""
    return [
        {"variant": row.variant, "service": row.service, "runs": row.runs}
        | {key: _as_json(value.mean, value.half) for key, value in row.values.items()}
        for row in rows(report.runs)
    ]


def _as_json(mean: float, half: float) -> dict[str, float | None]:
    return {"mean": mean, "half": half if half < float("inf") else None}


def as_text(report: Report, *, as_json: bool) -> str:
    """Return what is printed of a report."""
    return json.dumps(figures(report)) if as_json else report.text()
