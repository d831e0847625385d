"""Holds `docs/services.md` to what `registry/conf.py` reads."""

import re
from pathlib import Path

from registry.conf.docker import DOCKER_FIELDS
from registry.conf.service import FIELDS, parse_conf

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "services.md").read_text()


def example(language: str) -> str:
    found = re.search(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


def test_the_example_has_every_field_that_goes_with_a_built_image() -> None:
    conf = parse_conf(example("json"), "service-conf.json")
    assert conf.docker is not None
    assert conf.docker.cmd == "exec python server.py --port $SERVICE_PORT"
    missing = [name for name in FIELDS if name != "image" and f'"{name}"' not in example("json")]
    assert missing == []


def test_the_two_examples_say_the_same() -> None:
    read = [parse_conf(example(kind), f"service-conf.{kind}") for kind in ("json", "yaml")]
    assert read[0] == read[1]


def test_the_tables_explain_every_field() -> None:
    rows = set(re.findall(r"^\| `([A-Za-z_]+)(?:\.RTT)?` \|", PAGE, re.MULTILINE))
    assert rows >= FIELDS.keys() | DOCKER_FIELDS.keys()
