from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from myxo.line_shell import Left
from myxo.rtable import Answer
from myxo.rtable_shell import routing_shell
from overlay.errors import MyxoError
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
        self.shell = routing_shell(self.ask, self.follow, self.said.append)

    async def ask(self, given: Mapping[str, Any]) -> Sequence[Answer]:
        return [{"proxy": "4200", **self.desk.answer(RoutingCommand.model_validate(given))}]

    async def follow(self) -> None:
        self.followed += 1

    async def types(self, line: str) -> list[str]:
        self.said.clear()
        await self.shell.run(line)
        return list(self.said)


@pytest.fixture
def person() -> Person:
    return Person()


async def test_a_record_is_set_shown_and_unset(person: Person) -> None:
    said = await person.types("set squeezenet heisenberg:8080,einstein:8080 1,2.5")
    assert said == ["ok squeezenet: heisenberg:8080, einstein:8080 at 1, 2.5"]
    assert await person.types("list") == [
        "Service     Hosts                          Weights",
        "squeezenet  heisenberg:8080,einstein:8080  1,2.5",
    ]
    assert await person.types("unset squeezenet") == ["ok, 1 unset"]
    assert len(await person.types("updates")) == 2
    assert await person.types("flush") == ["ok, 2 forgotten"]
    assert await person.types("updates") == []


async def test_weights_may_be_left_out(person: Person) -> None:
    assert await person.types("set a b:1,c:1") == ["ok a: b:1, c:1 at 1, 1"]
    assert await person.types("clear") == ["ok, 1 unset"]


async def test_info_says_which_proxy_it_is(person: Person) -> None:
    assert await person.types("info") == [
        "proxy 4200: 0 services, 0 targets, 0 updates; kept in no file"
    ]


async def test_updates_are_followed_live(person: Person) -> None:
    await person.types("updates follow")
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
async def test_a_mistake_is_named(person: Person, line: str, complaint: str) -> None:
    with pytest.raises(MyxoError, match=complaint):
        await person.types(line)


async def test_help_lists_all_commands_and_shows_usage_parameters_and_an_example(
    person: Person,
) -> None:
    listed = "\n".join(await person.types("help"))
    assert all(name in listed for name in person.shell.words)
    said = "\n".join(await person.types("help set"))
    assert "Usage: set service hosts" in said
    assert "set squeezenet heisenberg:8080,einstein:8080 1,2" in said
    assert "weights: how much" in said


async def test_the_rest_of_the_seeds_list_is_there(person: Person) -> None:
    assert await person.types("echo set  up") == ["set  up"]
    assert await person.types("echo") == [""]
    assert len(await person.types("date")) == 1
    assert (
        await person.types("sleep 0")
        == await person.types("# a comment")
        == await person.types("")
        == []
    )
    with pytest.raises(Left):
        await person.types("exit")


async def test_a_file_is_done_line_by_line_up_to_one_that_fails(
    person: Person, tmp_path: Path
) -> None:
    file = tmp_path / "routes.txt"
    file.write_text("# two\nset a b:1\n\nset c d:1 2  # heavy\n")
    assert len(await person.types(f"source {file}")) == 2
    file.write_text("clear\nset a\nset b c:1\n")
    with pytest.raises(MyxoError, match=r"routes.txt, line 2: argument error"):
        await person.types(f"source {file}")
    assert await person.types("list") == ["Service  Hosts  Weights"]


async def test_files_that_source_each_other_end(person: Person, tmp_path: Path) -> None:
    file = tmp_path / "again.txt"
    file.write_text(f"source {file}\n")
    with pytest.raises(MyxoError, match="deep"):
        await person.types(f"source {file}")
    await person.types("echo still there")
