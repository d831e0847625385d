import os
import subprocess
from pathlib import Path

from bench.lab.experiments.presence import LOCK, leave_word, standalone_host


def left(folder: Path, host: str) -> None:
    fd = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        leave_word(fd, host)
    finally:
        os.close(fd)


def test_a_daemon_that_is_a_load_host_is_seen_while_it_runs(tmp_path: Path) -> None:
    assert standalone_host(tmp_path) is None
    left(tmp_path, "h1")
    assert standalone_host(tmp_path) == "h1"
    left(tmp_path, "")
    assert standalone_host(tmp_path) is None


def test_the_word_of_one_that_has_ended_counts_no_more(tmp_path: Path) -> None:
    left(tmp_path, "h1")
    word = (tmp_path / LOCK).read_text()
    with subprocess.Popen(["true"]) as ended:
        ended.wait()
    (tmp_path / LOCK).write_text(word.replace(str(os.getpid()), str(ended.pid)))
    assert standalone_host(tmp_path) is None
    for broken in ("", "[]", "{}", '{"pid": "x"}', "\0", '{"host": "h", "pid": -1, "began": 0}'):
        (tmp_path / LOCK).write_text(broken)
        assert standalone_host(tmp_path) is None
