"""Holds the settings file of docs/operations.md and the tables of docs/daemons.md to the code."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from allocator.rules.policy import NO_RULES, Quota, Rules
from allocator.rules.policy_file import read_policy
from allocator.settings import AllocatorSettings
from bootstrap.settings import BootstrapSettings
from overlay.settings import NodeSettings
from proxy.settings import ProxySettings
from registry.settings import CliSettings, RegistrySettings

DOCS = Path(__file__).resolve().parents[1] / "docs"
DAEMONS = (AllocatorSettings, BootstrapSettings, ProxySettings, RegistrySettings, CliSettings)


def test_the_settings_file_of_the_page_is_read_by_every_daemon(tmp_path: Path) -> None:
    text = (DOCS / "operations.md").read_text()
    found = re.search(r"^```toml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert found is not None
    path = tmp_path / "config.toml"
    path.write_text(found[1])
    for daemon in DAEMONS:
        assert daemon.load({}, path).psk == "kxz4-tgxy-xe3u-2qfz-r6aj"
    assert AllocatorSettings.load({}, path).memory_mib == 6144
    assert ProxySettings.load({}, path).port == 4200
    assert len(RegistrySettings.load({}, path).etcd) == 2
    assert CliSettings.load({}, path).timeout_s == 20


def test_the_policy_file_of_the_page_has_every_part_and_is_read(tmp_path: Path) -> None:
    text = (DOCS / "operations.md").read_text()
    found = re.search(r"^```toml policy\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert found is not None
    path = tmp_path / "policy.toml"
    path.write_text(found[1])
    rules = read_policy(path)
    for part in fields(Rules):
        assert getattr(rules, part.name) != getattr(NO_RULES, part.name) or part.name == "owners"
    for limit in fields(Quota):
        assert limit.name in found[1]


@pytest.mark.parametrize("daemon", DAEMONS, ids=lambda d: d.section)
def test_the_tables_name_every_setting(daemon: type[NodeSettings]) -> None:
    rows = [r for r in (DOCS / "daemons.md").read_text().splitlines() if r.startswith("|")]
    keys = set(re.findall(r"`([a-z0-9_]+)(?: = \[\.\.\.\])?`", "\n".join(rows)))
    assert daemon.model_fields.keys() - keys == set()
