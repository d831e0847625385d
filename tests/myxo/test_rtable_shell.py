from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from myxo.rtable import Answer, RtableFailed
from myxo.rtable_shell import WORDS, Left, Shell
from overlay.identity import Identity
from proxy.control.routing_desk import RoutingCommand, RoutingDesk
from proxy.ranking.routing_table import RoutingTable


class Person:
    """Somebody at the shell of one proxy."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.followed = 0
        identity = Identity.from_seed(b"p" * 32)
        self.desk = RoutingDesk(RoutingTable(), None, 4200, lambda _: None, identity)
        self.shell = Shell(self.ask, self.follow, self.said.append)

    def ask(self, given: Mapping[str, Any]) -> Sequence[Answer]:
        return [{"proxy": "4200", **self.desk.answer(RoutingCommand.model_validate(given))}]

    def follow(self) -> None:
        self.followed += 1

    def types(self, line: str) -> list[str]:
        self.said.clear()
        self.shell.run(line)
        return list(self.said)


@pytest.fixture
def person() -> Person:
    return Person()


def test_a_record_is_set_shown_and_unset(person: Person) -> None:
    said = person.types("set squeezenet heisenberg:8080,einstein:8080 1,2.5")
    assert said == ["ok squeezenet: heisenberg:8080, einstein:8080 at 1, 2.5"]
    assert person.types("list") == [
        "Service     Hosts                          Weights",
        "squeezenet  heisenberg:8080,einstein:8080  1,2.5",
    ]
    assert person.types("unset squeezenet") == ["ok, 1 unset"]
    assert len(person.types("updates")) == 2
    assert person.types("flush") == ["ok, 2 forgotten"]
    assert person.types("updates") == []


def test_weights_may_be_left_out(person: Person) -> None:
    assert person.types("set a b:1,c:1") == ["ok a: b:1, c:1 at 1, 1"]
    assert person.types("clear") == ["ok, 1 unset"]


def test_info_says_which_proxy_it_is(person: Person) -> None:
    assert person.types("info") == ["proxy 4200: 0 services, 0 targets, 0 updates; kept in no file"]


def test_updates_are_followed_live(person: Person) -> None:
    person.types("updates follow")
    assert person.followed == 1


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("set a", "usage: set service hosts"),
        ("set a b:1 one", "no weights"),
        ("set a b:1,c:1 1", "2 hosts and 1 weights"),
        ("set a b:1 1 2", "usage"),
        ("updates now", "usage: updates"),
        ("sleep long", "no seconds"),
        ("sleep -1", "no seconds"),
        ("dance", "no command 'dance'"),
        ("help dance", "no command 'dance'"),
        ("unset a", "no service 'a'"),
        ("source /nowhere/at/all", "cannot be read"),
    ],
)
def test_a_mistake_is_named(person: Person, line: str, complaint: str) -> None:
    with pytest.raises(RtableFailed, match=complaint):
        person.types(line)


def test_help_lists_all_commands_and_shows_usage_parameters_and_an_example(person: Person) -> None:
    listed = "\n".join(person.types("help"))
    assert all(name in listed for name in WORDS)
    said = "\n".join(person.types("help set"))
    assert "Usage: set service hosts" in said
    assert "set squeezenet heisenberg:8080,einstein:8080 1,2" in said
    assert "weights: how much" in said


def test_the_rest_of_the_seeds_list_is_there(person: Person) -> None:
    assert person.types("echo set  up") == ["set  up"]
    assert person.types("echo") == [""]
    assert len(person.types("date")) == 1
    assert person.types("sleep 0") == person.types("# a comment") == person.types("") == []
    with pytest.raises(Left):
        person.types("exit")


def test_a_file_is_done_line_by_line_up_to_one_that_fails(person: Person, tmp_path: Path) -> None:
    file = tmp_path / "routes.txt"
    file.write_text("# two\nset a b:1\n\nset c d:1 2  # heavy\n")
    assert len(person.types(f"source {file}")) == 2
    file.write_text("clear\nset a\nset b c:1\n")
    with pytest.raises(RtableFailed, match=r"routes.txt, line 2: argument error"):
        person.types(f"source {file}")
    assert person.types("list") == ["Service  Hosts  Weights"]


def test_files_that_source_each_other_end(person: Person, tmp_path: Path) -> None:
    file = tmp_path / "again.txt"
    file.write_text(f"source {file}\n")
    with pytest.raises(RtableFailed, match="deep"):
        person.types(f"source {file}")
    person.types("echo still there")
