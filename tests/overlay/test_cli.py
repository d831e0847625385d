import os
import signal
import subprocess
import sys

import pytest
import trio
import typer

from overlay.cli import (
    FAILED,
    OK,
    SUPERVISED,
    USAGE,
    new_app,
    refuse,
    refusing,
    run_app,
    run_daemon,
    with_two_dashes,
)
from overlay.errors import AddressTaken, SettingsInvalid

DAEMON = """
import sys, trio
from overlay.cli import run_daemon
async def main():
    print("up", flush=True)
    try:
        await trio.sleep_forever()
    finally:
        print("stopped", flush=True)
run_daemon(main, log_level="info")
"""


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["-bootstrap", "/x", "-psk=y", "4200"], ["--bootstrap", "/x", "--psk=y", "4200"]),
        (["--psk", "y", "-h", "-v"], ["--psk", "y", "-h", "-v"]),
        (["-1", "-0.5", "-", "--"], ["-1", "-0.5", "-", "--"]),
        (["-a-b", "--", "-long", "x"], ["--a-b", "--", "-long", "x"]),
        ([], []),
    ],
)
def test_one_dash_is_as_good_as_two_up_to_a_bare_double_dash(
    given: list[str], expected: list[str]
) -> None:
    assert with_two_dashes(given) == expected


def test_a_command_takes_its_flags_with_one_dash(capsys: pytest.CaptureFixture[str]) -> None:
    app = new_app("Say it.")

    @app.command()
    def say(word: str = "", times: int = 1) -> None:
        typer.echo(word * times)

    with pytest.raises(SystemExit) as ended:
        run_app(app, "say", ["-word", "ha", "-times=2"])
    assert ended.value.code == OK
    assert capsys.readouterr().out == "haha\n"
    with pytest.raises(SystemExit) as ended:
        run_app(app, "say", ["-wrod", "ha"])
    assert ended.value.code == USAGE


def exit_code(exc: BaseException) -> int:
    with pytest.raises(typer.Exit) as ended:
        refuse(exc)
    return ended.value.exit_code


def test_an_error_for_a_person_is_one_line_and_an_exit_code(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert exit_code(AddressTaken("port 1 is taken")) == FAILED
    assert exit_code(SettingsInvalid("no such thing")) == USAGE
    assert capsys.readouterr().err == "error: port 1 is taken\nerror: no such thing\n"


def test_errors_in_groups_are_told_each_once(capsys: pytest.CaptureFixture[str]) -> None:
    group = ExceptionGroup("", [AddressTaken("a"), ExceptionGroup("", [AddressTaken("a")])])
    assert exit_code(group) == FAILED
    assert capsys.readouterr().err == "error: a\n"
    assert exit_code(BaseExceptionGroup("", [KeyboardInterrupt()])) == OK


def test_a_bug_keeps_its_traceback_also_beside_an_error_for_a_person() -> None:
    group = ExceptionGroup("", [AddressTaken("a"), ZeroDivisionError()])
    with pytest.raises(ExceptionGroup) as raised:
        refuse(group)
    assert raised.value is group


def test_a_refusing_command_ends_with_the_code_of_its_error() -> None:
    @refusing
    def command() -> None:
        raise SettingsInvalid("x")

    with pytest.raises(typer.Exit) as ended:
        command()
    assert ended.value.exit_code == USAGE


def test_a_daemon_whose_main_ends_ends() -> None:
    async def main() -> None:
        await trio.lowlevel.checkpoint()

    run_daemon(main, log_level="error")


def daemon(**environment: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", DAEMON],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_a_daemon_in_order(number: signal.Signals) -> None:
    with daemon() as process:
        process.send_signal(number)
        output, _ = process.communicate(timeout=20)
    assert (output, process.returncode) == ("stopped\n", OK)


def test_a_supervised_daemon_stops_in_order_when_its_supervisor_is_gone() -> None:
    with daemon(**{SUPERVISED: "1"}) as process:
        output, _ = process.communicate(timeout=20)  # closes its standard input, as a death does
    assert (output, process.returncode) == ("stopped\n", OK)
