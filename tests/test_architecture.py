"""The constants that ARCHITECTURE.md gives reasons for are the code's."""

import re
from importlib import import_module
from pathlib import Path

import pytest

from overlay.membership import Knobs

PAGE = (Path(__file__).parent.parent / "ARCHITECTURE.md").read_text()
ROWS = re.findall(r"^\| `([\w.]+)` \| ([\d.]+) \|", PAGE, re.MULTILINE)


@pytest.mark.parametrize(("name", "value"), ROWS)
def test_a_constant_of_the_page_has_that_value(name: str, value: str) -> None:
    where, constant = name.rsplit(".", 1)
    if where.endswith("Knobs.lan"):
        assert getattr(Knobs.lan(), constant) == float(value)
    else:
        module = where if where.startswith("allocator.") else f"overlay.{where}"
        assert getattr(import_module(module), constant) == float(value)


def test_every_knob_that_shapes_detection_is_on_the_page() -> None:
    named = {name.rsplit(".", 1)[1] for name, _ in ROWS}
    assert {"probe_interval_s", "suspicion_s", "timeout_ceiling_s", "CONFIRMATIONS"} <= named
    assert len(ROWS) > 20
