import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from bench.lab.experiments.cli import experiments_app
from bench.lab.frames import traces


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DB_TYPE", "MYXO_EXPERIMENTD_DATABASE", "MYXO_DATABASE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MYXO_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("MYXO_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)


def run(*arguments: str, stdin: str | None = None, fails: bool = False) -> Result:
    result = CliRunner().invoke(experiments_app, arguments, input=stdin)
    assert (result.exit_code != 0) is fails, result.output
    return result


def submit(body: object, *flags: str) -> str:
    return run("submit", "-", *flags, stdin=json.dumps(body)).stdout.strip()


def test_what_is_submitted_is_listed_and_shown() -> None:
    exp_id = submit({"instructions": "sleep 1", "name": "first"})
    assert f"{exp_id}  first" in run("list").stdout
    assert [e["exp_id"] for e in json.loads(run("list", "--json").stdout)] == [exp_id]
    assert "sleep 1" in run("show", exp_id).stdout
    shown = json.loads(run("show", exp_id, "--json").stdout)
    assert (shown["status"], shown["summary"]["requests"]) == ("QUEUED", 0)


def test_a_file_is_submitted(tmp_path: Path) -> None:
    (tmp_path / "e.json").write_text('{"instructions": "sleep 1", "exp_id": "e1"}')
    assert run("submit", "e.json").stdout == "e1\n"


def test_what_is_wrong_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    result = run("submit", "-", stdin='{"instructions": "jump"}', fails=True)
    assert result.exit_code == 1
    assert result.stderr == (
        "error: instructions, line 1: there is no command 'jump'; known: spawn, rps, request, "
        "close, sleep, echo, clients, date, hosts, info, ping, exit\n"
    )
    assert "e9.json cannot be read" in run("submit", "e9.json", fails=True).stderr
    assert "no experiment 'e9'" in run("show", "e9", fails=True).stderr
    assert "use csv or parquet" in run("export", "e9", "--format", "xls", fails=True).stderr


def test_experiments_are_compared_cancelled_and_deleted() -> None:
    first, second = (submit({"instructions": "sleep 1"}) for _ in range(2))
    assert run("compare", first, second).stdout.splitlines()[0].startswith("ID ")
    assert run("cancel", first).stdout == f"{first} is cancelled\n"
    assert "CANCELLED" in run("show", first).stdout
    run("delete", first, second)
    assert "no experiments yet" in run("list").stderr


def test_an_export_is_a_folder_called_as_the_experiment(tmp_path: Path) -> None:
    exp_id = submit({"instructions": "sleep 1"})
    files = run("export", exp_id, "--format", "parquet").stdout.split()
    assert all((tmp_path / file).exists() for file in files)
    assert f"{exp_id}/traces.parquet" in files


def test_another_database_is_named_by_its_url(tmp_path: Path) -> None:
    other = f"sqlite:///{tmp_path / 'other.sqlite3'}"
    exp_id = submit({"instructions": "sleep 1"}, "--database", other)
    assert exp_id in run("list", "--database", other).stdout
    assert exp_id not in run("list").stdout


WRITER = """
import sys, trio
from pathlib import Path
from bench.lab.experiments.database import database_url
from bench.lab.experiments.store import SqlTraceSink, open_store
from bench.lab.request_trace import RequestTrace

async def main():
    async with open_store(database_url(sys.argv[1], {}, Path("."))) as store:
        sink, sent = SqlTraceSink(store), 0
        while True:
            batch = [
                RequestTrace(f"c:{sent + i}", "c", "s", "h", 1.0, 1.0, 2.0, 200, "i", "")
                for i in range(1000)
            ]
            await sink.write(batch)
            sent += len(batch)
            print(sent, flush=True)

trio.run(main)
"""


def test_a_killed_writer_loses_at_most_its_last_flush(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'e.sqlite3'}"
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, url], stdout=subprocess.PIPE, text=True, env=os.environ
    )
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) >= 20_000:
            break
    process.kill()
    told = max([20_000, *(int(line) for line in process.stdout)])
    process.wait()
    process.stdout.close()
    kept = traces(database=url)
    assert told <= len(kept) <= told + 1000
    assert list(kept.request_id) == [f"c:{number}" for number in range(len(kept))]
