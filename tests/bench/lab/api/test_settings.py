"""Where the API listens, and what keeps others out."""

from pathlib import Path

import pytest

from bench.lab.api.settings import ApiSettings
from overlay.errors import SettingsInvalid

TOKEN = "correct-horse-battery"


def settings(**given: object) -> ApiSettings:
    return ApiSettings.load(given)


def test_by_default_only_this_machine_reaches_it() -> None:
    assert settings().address() == ("127.0.0.1", 5001)


@pytest.mark.parametrize("listen", [":5001", "0.0.0.0:5001", "10.0.0.7:80", "[::]:80", "lab:80"])
def test_where_others_reach_it_a_token_is_needed(listen: str) -> None:
    with pytest.raises(SettingsInvalid, match="--token-file"):
        settings(listen=listen).address()
    assert settings(listen=listen, token=TOKEN).address()[1] in {80, 5001}


@pytest.mark.parametrize("listen", ["127.0.0.1:1", "[::1]:1", "localhost:1", "127.9.9.9:1"])
def test_on_the_loopback_none_is(listen: str) -> None:
    assert settings(listen=listen).address()[1] == 1


def test_a_token_is_read_from_a_file_or_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    assert settings(token_file=tmp_path / "token").secret() == TOKEN
    monkeypatch.setenv("MYXO_LAB_API_TOKEN", TOKEN)
    assert settings().secret() == TOKEN


@pytest.mark.parametrize("text", ["", "short", "a line\nand another one", "ein Schlüssel, lang"])
def test_what_is_no_token_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "token").write_text(text)
    with pytest.raises(SettingsInvalid, match="token"):
        settings(token_file=tmp_path / "token").secret()


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(SettingsInvalid, match="cannot be read"):
        settings(token_file=tmp_path / "none").secret()


def test_experiments_are_where_their_daemon_keeps_them(tmp_path: Path) -> None:
    url = settings(state_dir=tmp_path).database_url()
    assert url.database == str(tmp_path / "experiments.sqlite3")
    other = settings(database=f"sqlite:///{tmp_path}/other.sqlite3").database_url()
    assert other.database == f"{tmp_path}/other.sqlite3"
