import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from allocator.rules.policy import NO_RULES, Ceiling, Listed, Quota
from allocator.rules.policy_file import MAX_BYTES, PolicyFile, read_policy
from overlay.errors import SettingsInvalid
from overlay.identity import Identity

ALICE = Identity.from_seed(b"a" * 32).peer_id


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def problem_of(path: Path, text: str) -> str:
    with pytest.raises(SettingsInvalid) as caught:
        read_policy(written(path, text))
    return str(caught.value)


def test_every_part_of_a_file_becomes_a_rule(tmp_path: Path) -> None:
    text = f"""
        runtimes = ["docker"]
        [peers]
        deny = ["{ALICE}"]
        [owners]
        allow = ["trusted", "{ALICE}"]
        [images]
        allow = ["registry:ghcr.io"]
        [limits]
        instances = 4
        starts_per_minute = 30
        [ceiling]
        memory_mib = 512
        [owner.{ALICE}]
        runtimes = ["process"]
        limits.instances = 8
        """
    rules = read_policy(written(tmp_path / "policy.toml", text))
    assert rules.runtimes == {"docker"}
    assert rules.peers == Listed(deny=(ALICE,))
    assert rules.owners == Listed(("trusted", ALICE))
    assert rules.quota == Quota(instances=4, starts_per_minute=30)
    assert rules.ceiling == Ceiling(memory_mib=512)
    assert rules.quota_of(ALICE) == Quota(instances=8)
    assert rules.of(ALICE).runtimes == frozenset({"process"})


def test_an_empty_file_says_nothing(tmp_path: Path) -> None:
    assert read_policy(written(tmp_path / "policy.toml", "")) == NO_RULES


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[image]\nallow = []", "there is no key 'image' at its top; did you mean images"),
        ("[images]\nalow = []", "there is no key 'alow' in [images]; did you mean allow"),
        ("[limits]\ninstance = 1", "there is no key 'instance' in [limits]; did you mean instanc"),
        (f"[owner.{ALICE}]\nruntime = []", f"'runtime' in [owner.{ALICE}]; did you mean runtimes"),
        (f"[owner.{ALICE}.limits]\nfoo = 1", "it may have cpu_millicores, instances"),
        ("privileged = true", "there is no key 'privileged'"),
        ("[limits]\ninstances = 0", "limits.instances: Input should be greater than or equal"),
        ('[owners]\nallow = ["alice"]', "[owners] names 'alice', which is no key's id"),
        ('[peers]\nallow = ["trusted"]', "[peers] names 'trusted'"),
        ('runtimes = ["podman"]', "runtimes.0: Input should be 'docker' or 'process'"),
        ("[images", "cannot be used: "),
        ("#" * (MAX_BYTES + 1), "it is larger than"),
    ],
)
def test_what_is_wrong_is_named_with_what_may_have_been_meant(
    tmp_path: Path, text: str, told: str
) -> None:
    assert told in problem_of(tmp_path / "policy.toml", text)


def test_a_file_that_was_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(SettingsInvalid, match=r"nowhere\.toml"):
        PolicyFile(tmp_path / "nowhere.toml")


def test_the_default_file_may_come_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MYXO_CONFIG_DIR", str(tmp_path))
    policy = PolicyFile()
    assert policy.rules() == NO_RULES
    assert policy.status() == {"file": "", "problem": ""}
    path = written(tmp_path / "policy.toml", "[limits]\ninstances = 3")
    assert policy.rules().quota == Quota(instances=3)
    assert policy.status() == {"file": str(path), "problem": ""}


def test_a_change_counts_at_the_next_decision(tmp_path: Path) -> None:
    path = written(tmp_path / "policy.toml", "[limits]\ninstances = 3")
    policy = PolicyFile(path)
    assert policy.rules().quota.instances == 3
    written(path, "[limits]\ninstances = 20")
    assert policy.rules().quota.instances == 20


def test_a_broken_change_keeps_the_old_rules_and_says_so_once(tmp_path: Path) -> None:
    path = written(tmp_path / "policy.toml", "[limits]\ninstances = 3")
    policy = PolicyFile(path)
    written(path, "[limts]\ninstances = 20")
    with capture_logs() as logs:
        assert policy.rules().quota.instances == 3
        assert policy.rules().quota.instances == 3
    assert [(entry["event"], entry["log_level"]) for entry in logs] == [("policy.refused", "error")]
    assert "did you mean limits" in policy.status()["problem"]
    written(path, "[limits]\ninstances = 5")
    assert policy.rules().quota.instances == 5
    assert policy.status()["problem"] == ""


def test_a_file_that_has_gone_takes_no_rule_away(tmp_path: Path) -> None:
    path = written(tmp_path / "policy.toml", "[limits]\ninstances = 3")
    policy = PolicyFile(path)
    path.unlink()
    assert policy.rules().quota.instances == 3
    assert "has gone" in policy.problem


def test_a_file_of_the_same_size_and_time_under_another_inode_is_noticed(tmp_path: Path) -> None:
    path = written(tmp_path / "policy.toml", "[limits]\ninstances = 3")
    policy = PolicyFile(path)
    before = path.stat()
    replacement = written(tmp_path / "new", "[limits]\ninstances = 5")
    os.utime(replacement, ns=(before.st_atime_ns, before.st_mtime_ns))
    replacement.replace(path)
    assert policy.rules().quota.instances == 5
