from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.lab.errors import BadInput
from bench.lab.experiments.instructions import KNOWN, from_instructions
from bench.lab.experiments.steps import (
    CloseClients,
    Say,
    SendRequests,
    SetRate,
    Sleep,
    SpawnClients,
)
from bench.lab.shell.words import LAB_WORDS
from myxo.line_shell import COMMON
from myxo.rtable_shell import ROUTING_WORDS

SEED = (
    "spawn exphost squeezenet 1\nsleep 2\nrps exphost squeezenet 1\nsleep 5\n"
    "rps exphost squeezenet 0\nsleep 2\nclose exphost squeezenet"
)


def test_the_commands_of_galileos_readme_are_read() -> None:
    assert from_instructions(SEED) == (
        SpawnClients("exphost", "squeezenet", 1),
        Sleep(2),
        SetRate("exphost", "squeezenet", 1),
        Sleep(5),
        SetRate("exphost", "squeezenet", 0),
        Sleep(2),
        CloseClients("exphost", "squeezenet"),
    )


def test_remarks_empty_lines_and_commands_for_people_are_passed_over() -> None:
    text = "# first\n\n  hosts pico.*\ninfo\nspawn pico[0-9] alexnet  # one each\necho all there\n"
    assert from_instructions(text) == (SpawnClients("pico[0-9]", "alexnet", 1), Say("all there"))


def test_requests_by_number_and_clients_of_ones_own_are_said_as_in_python() -> None:
    text = "spawn h s 2 classify\nrequest h s 100 expovariate:2\nrequest h s 5 0.1\nrequest h s 7"
    assert from_instructions(text) == (
        SpawnClients("h", "s", 2, "classify"),
        SendRequests("h", "s", 100, ("expovariate", 2.0)),
        SendRequests("h", "s", 5, 0.1),
        SendRequests("h", "s", 7),
    )


def test_each_command_is_one_of_the_shells_and_those_that_are_not_here_are_known() -> None:
    shells = {**LAB_WORDS, **COMMON}.keys()
    assert set(KNOWN) <= shells
    assert shells - set(KNOWN) == {*ROUTING_WORDS, "source", "help"}


def test_nothing_after_exit_is_done() -> None:
    assert from_instructions("sleep 1\nexit\nsleep 2") == (Sleep(1),)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("spwan h s", "no command 'spwan'"),
        ("spawn h", "usage: spawn host_pattern service"),
        ("spawn h s 0", "'0' is no number from 1 to 256"),
        ("spawn h s many", "'many' is no number from 1 to 256"),
        ("spawn h( s", "'h\\(' is no regular expression"),
        ("rps h s fast", "'fast' are no requests a second"),
        ("rps h s nan", "'nan' are no requests a second"),
        ("rps h s inf", "'inf' are no requests a second"),
        ("rps h s -1", "'-1' are no requests a second"),
        ("sleep", "usage: sleep seconds"),
        ("sleep 1e9", "'1e9' are no seconds up to"),
        ("close h", "usage: close host_pattern service"),
        ("request h s", "usage: request host_pattern service count"),
        ("request h s 0", "'0' is no number from 1 to"),
        ("request h s 5 often:1", "no distribution 'often'"),
        ("request h s 5 expovariate:0", "above 0"),
        ("set s h:1", "no command 'set'"),
        ("hosts a b", "usage: hosts"),
    ],
)
def test_a_wrong_line_is_named(line: str, reason: str) -> None:
    with pytest.raises(BadInput, match=f"line 2: .*{reason}"):
        from_instructions(f"sleep 1\n{line}\n")


def test_instructions_that_do_nothing_are_refused() -> None:
    with pytest.raises(BadInput, match="no command"):
        from_instructions("# nothing\nhosts\n")


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    with suppress(BadInput):
        assert from_instructions(text)
