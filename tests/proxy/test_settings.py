from pathlib import Path

import pytest

from overlay.errors import SettingsInvalid
from proxy.settings import ProxySettings


def test_envoy_has_threads_and_no_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MYXO_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("MYXO_CONFIG_DIR", str(tmp_path))
    with pytest.raises(SettingsInvalid, match="envoy_workers"):
        ProxySettings.load({"engine": "envoy", "workers": 2})
    assert ProxySettings.load({"engine": "envoy", "workers": 1}).workers == 1


def test_a_worker_is_told_the_settings_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MYXO_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("MYXO_CONFIG_DIR", str(tmp_path))
    given = {"workers": 2, "listen": ("127.0.0.1:0",), "expose": ("hello",), "max_body_bytes": 7}
    settings = ProxySettings.load(given)
    monkeypatch.setenv("MYXO_PROXY_MAX_BODY_BYTES", "9")
    monkeypatch.setenv("MYXO_PSK", "of another network")
    assert ProxySettings(**settings.model_dump(mode="json")) == settings


def test_envoy_knows_no_paths_of_the_users_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MYXO_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("MYXO_CONFIG_DIR", str(tmp_path))
    with pytest.raises(SettingsInvalid, match="paths"):
        ProxySettings.load({"engine": "envoy", "paths": tmp_path / "paths.json"})
