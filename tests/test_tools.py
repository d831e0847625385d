"""The recipes that people and continuous integration call."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
RECIPES = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_the_makefile_has_at_most_ten_recipes() -> None:
    assert len(RECIPES) <= 10


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_is_explained_to_contributors(recipe: str) -> None:
    assert f"make {recipe}" in (ROOT / "CONTRIBUTING.md").read_text()


@pytest.mark.parametrize(
    "script", [".ci/run", "tools/setup.sh", "tools/test.sh", "tools/with-engine.sh"]
)
def test_a_script_is_executable_and_well_formed(script: str) -> None:
    assert (ROOT / script).stat().st_mode & 0o111
    subprocess.run(["bash", "-n", ROOT / script], check=True)


def test_a_command_with_an_engine_keeps_its_exit_code() -> None:
    done = subprocess.run([ROOT / "tools" / "with-engine.sh", "sh", "-c", "exit 7"], check=False)
    assert done.returncode == 7


@pytest.mark.docker
@pytest.mark.netns
@pytest.mark.slow
def test_a_private_engine_starts_where_none_answers_and_goes_with_the_command() -> None:
    # In a network of its own, where it cannot meet the engine that the other tests use.
    script = (
        "ip link set lo up; export DOCKER_HOST=unix:///nowhere/docker.sock; "
        # a container on the host's network has the engine mount that network under its folder
        "tools/with-engine.sh sh -c 'echo $DOCKER_HOST; tar -C / -c bin/busybox | "
        "docker import - box >/dev/null; docker run --network=host box /bin/busybox echo up'; "
        "ip link show docker0 || echo no bridge; tools/with-engine.sh false || echo failed"
    )
    done = subprocess.run(
        ["unshare", "--net", "--mount", "bash", "-c", script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    host, *rest = done.stdout.splitlines()
    assert rest == ["up", "no bridge", "failed"], done.stderr
    log = Path(done.stderr.rpartition("the engine's log is in ")[2].rstrip())
    said = log.read_text()
    log.unlink()
    assert "API listen on" in said
    assert "goroutine 1 [" in said, "what it was at"
    assert not Path(host.removeprefix("unix://")).parent.exists()
