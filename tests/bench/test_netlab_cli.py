import json
import os
import sys
import tomllib
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

import bench.lab.cli
import myxo.cli
from tests.template import Completed, template

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 60.0
Net = Callable[..., Completed]


@pytest.fixture
def net(tmp_path: Path) -> Iterator[Net]:
    """Runs `myxo lab net …` with a state of its own; what is up at the end is taken down."""
    environment = os.environ | {"MYXO_STATE_DIR": str(tmp_path / "state")}

    def run(*arguments: str, code: int = 0) -> Completed:
        done = template().run(("myxo", "lab", "net", *arguments), environment, TIMEOUT_S)
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done

    yield run
    template().run(("myxo", "lab", "net", "down"), environment, TIMEOUT_S)


def links(net: Net) -> dict[tuple[str, str], dict[str, Any]]:
    found = json.loads(net("status", "--json").stdout)["links"]
    return {(link["from"], link["to"]): link for link in found}


@pytest.mark.netns
@pytest.mark.slow
def test_a_lab_stays_up_between_commands_until_it_is_taken_down(net: Net) -> None:
    printed = net("up", "--hosts", "3", "--preset", "lan").stdout
    assert "10.77.0.3" in printed
    assert "0.1 ms 1000 Mbit/s" in printed
    net("set", "h1", "h2", "--delay-ms", "50")
    net("set", "h1", "h3", "--loss", "1", "--one-way")
    assert links(net)["h2", "h1"]["link"]["delay_s"] == 0.05
    assert links(net)["h2", "h1"]["link"]["bandwidth_bps"] == 1e9, "what is not named stays"
    assert "loss" not in links(net)["h3", "h1"]["link"]
    assert "time=1" in net("exec", "h1", "--", "ping", "-c", "1", "h2").stdout
    net("cut", "h2")
    net("exec", "h1", "--", "ping", "-c", "1", "-W", "1", "h2", code=1)
    assert "cut off" in net("status").stdout
    net("heal", "h2")
    net("cut", "h2", "h1")
    assert links(net)["h1", "h2"]["cut"]
    net("heal")
    net("reboot", "h2")
    net("exec", "h2", "--", "ping", "-c", "1", "h1")
    assert links(net)["h2", "h1"]["link"]["delay_s"] == 0.05
    net("down")
    assert "no lab is up" in net("status", code=1).stderr


@pytest.mark.netns
@pytest.mark.slow
def test_a_second_lab_of_the_same_name_is_refused_and_of_another_is_not(net: Net) -> None:
    net("up", "--hosts", "1")
    assert "is up in" in net("up", code=1).stderr
    net("up", "--hosts", "2", "--name", "other")
    assert len(json.loads(net("status", "--name", "other", "--json").stdout)["hosts"]) == 2
    net("down", "--name", "other")
    net("status")


@pytest.mark.netns
@pytest.mark.slow
def test_a_lab_is_made_from_a_file(net: Net, tmp_path: Path) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text(
        '[[hosts]]\nname = "a"\nnat = "cone"\n[[hosts]]\nname = "b"\n[default]\ndelay_ms = 10\n'
    )
    net("up", str(plan))
    assert links(net)["a", "b"]["link"] == {"delay_s": 0.01}
    net("exec", "a", "--", "ping", "-c", "1", "b")
    net("exec", "b", "--", "ping", "-c", "1", "-W", "1", "a", code=1)


@pytest.mark.netns
@pytest.mark.slow
def test_an_exit_code_is_passed_on_and_a_stopped_router_is_told(net: Net) -> None:
    net("up", "--hosts", "1")
    net("exec", "h1", "--", "sh", "-c", "exit 7", code=7)
    os.kill(json.loads(net("status", "--json").stdout)["router"]["pid"], 9)
    assert "no lab is up" in net("exec", "h1", "--", "true", code=1).stderr
    assert "/state/lab/lab" in net("clean").stdout


WRONG = {
    ("set", "h1", "h9", "--loss", "0.1"): "no host 'h9'; it has h1, h2",
    ("set", "h1", "h2"): "nothing to change",
    ("set", "h1", "h2", "--loss", "2"): "loss: Input should be less than or equal to 1",
    ("set", "h1", "h1", "--loss", "0.5"): "to itself",
    ("set", "h1"): "Missing argument",
    ("cut", "h7"): "no host 'h7'",
    ("status", "--name", "No Name"): "use up to 31 of a-z",
    ("up", "--hosts", "0", "--name", "none"): "1 to 200 hosts",
    ("up", "/no/such.toml", "--name", "none"): "cannot be read",
}


@pytest.mark.netns
@pytest.mark.slow
def test_wrong_usage_says_what_is_wrong_with_code_2(net: Net) -> None:
    net("up", "--hosts", "2")
    for arguments, said in WRONG.items():
        assert said in net(*arguments, code=2).stderr


def test_without_root_one_line_says_so(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(sys, "argv", ["myxo", "lab", "net", "up"])
    monkeypatch.setattr(myxo.cli, "entry_points", _declared)
    with pytest.raises(SystemExit) as ended:
        myxo.cli.main()
    assert ended.value.code == 1
    assert capsys.readouterr().err.startswith("error: a lab needs root")


def _declared(*, group: str, name: str) -> list[EntryPoint]:
    """Return what an installation of this checkout has."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = project["entry-points"][group]
    return [EntryPoint(name, declared[name], group)] if name in declared else []


def test_lab_is_a_command_of_myxo_by_its_entry_point() -> None:
    (entry,) = _declared(group=myxo.cli.EXTENSIONS, name="lab")
    assert entry.load() is bench.lab.cli.app


@pytest.mark.parametrize("words", [[], ["--help"], ["status", "--help"], ["key"]])
def test_what_is_installed_is_read_for_unknown_words_only(
    words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(**_: str) -> list[EntryPoint]:
        raise AssertionError("read what is installed")

    monkeypatch.setattr(sys, "argv", ["myxo", *words])
    monkeypatch.setattr(myxo.cli, "entry_points", never)
    with pytest.raises(SystemExit):
        myxo.cli.main()


def test_a_word_that_is_no_command_is_told_as_before(
    monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(sys, "argv", ["myxo", "no-such-command"])
    with pytest.raises(SystemExit) as ended:
        myxo.cli.main()
    assert ended.value.code == 2
    assert "No such command 'no-such-command'" in capsys.readouterr().err
