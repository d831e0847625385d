"""What a user installs: the packages, the wheel, and the commands that it brings."""

import importlib
import os
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
SCRIPTS = sorted(PROJECT["project"]["scripts"])


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_is_imported_from_this_checkout(package: str) -> None:
    module = importlib.import_module(package)
    assert module.__file__ is not None
    assert Path(module.__file__).is_relative_to(ROOT)


def test_the_locks_hold_what_the_project_asks_for() -> None:
    names = {_name(text) for text in PROJECT["project"]["dependencies"]}
    for group in ("build", "dev"):
        names |= {_name(text) for text in PROJECT["dependency-groups"][group]}
    assert names <= _locked("requirements-dev.lock").keys()


def test_both_locks_agree_on_every_version() -> None:
    assert _locked("requirements.lock").items() <= _locked("requirements-dev.lock").items()


def test_the_locks_of_the_lab_and_of_its_tests_agree() -> None:
    lab, dev = _locked("requirements-lab.lock"), _locked("requirements-dev.lock")
    assert {name: dev.get(name) for name in lab} == lab
    assert {_name(text) for text in PROJECT["project"]["optional-dependencies"]["lab"]} <= {
        name.partition("[")[0] for name in lab
    }


@pytest.mark.parametrize(
    "lock", ["requirements.lock", "requirements-lab.lock", "requirements-dev.lock"]
)
def test_a_lock_names_no_index(lock: str) -> None:
    text = (ROOT / lock).read_text()
    assert "://" not in text
    assert "index" not in text
    assert "--find-links" not in text


def test_every_dependency_has_its_sentence() -> None:
    page = (ROOT / "docs" / "dependencies.md").read_text().lower()
    wanted = [_name(text) for text in PROJECT["project"]["dependencies"]]
    for group in PROJECT["dependency-groups"].values():
        wanted += [_name(text) for text in group]
    assert [name for name in wanted if name not in page] == []


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    _run(
        *(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"),
        *("-w", str(folder), str(ROOT)),
    )
    (built,) = folder.glob("*.whl")
    return built


@pytest.mark.slow
def test_the_wheel_holds_the_packages_and_the_licence_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    top = {name.partition("/")[0] for name in names if ".dist-info/" not in name}
    assert top == set(PACKAGES)
    assert any(name.endswith(".dist-info/licenses/LICENSE.md") for name in names)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_wheel_installs_into_an_empty_environment_with_every_command(
    wheel: Path, tmp_path: Path
) -> None:
    venv.create(tmp_path / "env", with_pip=True)
    commands = tmp_path / "env" / "bin"
    pip = (str(commands / "pip"), "install", "-qq", "--no-input")
    _run(*pip, "--require-hashes", "--use-pep517", "-r", str(ROOT / "requirements.lock"))
    _run(*pip, str(wheel))
    _run(str(commands / "pip"), "check", "-qq")
    _run(str(commands / "python"), "-c", "import myxo", cwd=tmp_path)
    for script in SCRIPTS:
        printed = _run(str(commands / script), "--help", cwd=tmp_path)
        assert "Usage" in printed, script
        assert "xample" in printed, f"{script} --help shows no example"


def _run(*command: str, cwd: Path = ROOT) -> str:
    environment = {k: v for k, v in os.environ.items() if k not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    done = subprocess.run(
        command,
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, f"{command}:\n{done.stdout}"
    return done.stdout


def _name(requirement: str) -> str:
    for end, character in enumerate(requirement):
        if character in " <>=~![;":
            return requirement[:end].lower()
    return requirement.lower()


def _locked(lock: str) -> dict[str, str]:
    lines = (ROOT / lock).read_text().splitlines()
    pins = [line.split(";")[0].strip(" \\") for line in lines if "==" in line.split(";")[0]]
    return dict(pin.split("==", 1) for pin in pins)
