import io
import zipfile
from pathlib import Path

import pytest

from bench.lab.errors import BadInput
from bench.lab.hosts.apps import MAX_FILES, MAX_KEPT, Deployed, Package, Unpacked, pack, unpack


def client(folder: Path, name: str = "classify", body: str = "") -> Path:
    folder.mkdir()
    (folder / "manifest.yml").write_text(f"name: {name}\n")
    (folder / "generator.py").write_text(body or "def next_request():\n    return 'GET', '', {}\n")
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "junk.pyc").write_bytes(b"junk")
    (folder / "images").mkdir()
    (folder / "images" / "cat.jpg").write_bytes(b"meow")
    return folder


def archive(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as made:
        for name, data in files.items():
            made.writestr(name, data)
    return buffer.getvalue()


def test_a_folder_is_packed_to_the_same_bytes_wherever_it_is(tmp_path: Path) -> None:
    one, other = pack(client(tmp_path / "one")), pack(client(tmp_path / "other"))
    assert one == other
    assert one.name == "classify"
    assert one.digest == other.digest
    assert pack(client(tmp_path / "third", body="next_request = print\n")).digest != one.digest


def test_what_is_unpacked_is_what_was_packed(tmp_path: Path) -> None:
    package = pack(client(tmp_path / "one"))
    unpack(package, tmp_path / "there")
    files = sorted(
        p.relative_to(tmp_path / "there").as_posix() for p in tmp_path.glob("there/**/*.*")
    )
    assert files == ["generator.py", "images/cat.jpg", "manifest.yml"]
    assert (tmp_path / "there" / "images" / "cat.jpg").read_bytes() == b"meow"


def test_a_single_file_is_a_client_of_its_name(tmp_path: Path) -> None:
    (tmp_path / "poke.py").write_text("def next_request():\n    return 'GET', '', {}\n")
    package = pack(tmp_path / "poke.py")
    unpack(package, tmp_path / "there")
    assert package.name == "poke"
    assert (tmp_path / "there" / "manifest.yml").read_text() == "name: poke\n"


def test_what_is_no_client_is_refused_by_what_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="No such file"):
        pack(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="cannot be read"):
        pack(tmp_path / "empty")
    with pytest.raises(BadInput, match="no client's name"):
        pack(client(tmp_path / "badly", name="../up"))
    nameless = client(tmp_path / "nameless")
    (nameless / "manifest.yml").write_text("title: x\n")
    with pytest.raises(BadInput, match="does not say"):
        pack(nameless)


def test_one_that_is_too_large_is_refused(tmp_path: Path) -> None:
    large = client(tmp_path / "large")
    (large / "noise").write_bytes(bytes(17 * 1024 * 1024))
    with pytest.raises(BadInput, match="larger"):
        pack(large)
    (large / "noise").unlink()
    for number in range(MAX_FILES):
        (large / str(number)).touch()
    with pytest.raises(BadInput, match="files"):
        pack(large)


@pytest.mark.parametrize("name", ["../outside", "/etc/outside", "a/../../outside"])
def test_a_package_writes_nothing_outside_its_folder(tmp_path: Path, name: str) -> None:
    evil = Package("evil", archive({name: b"x"}))
    with pytest.raises(BadInput, match="outside"):
        unpack(evil, tmp_path / "deep" / "there")
    assert not list(tmp_path.glob("**/outside*"))
    assert not (tmp_path / "deep" / "there").exists()


def test_a_package_that_swells_is_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("zeros", bytes(17 * 1024 * 1024))
    with pytest.raises(BadInput, match="more than"):
        unpack(Package("bomb", buffer.getvalue()), tmp_path / "there")


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot be unpacked"):
        unpack(Package("junk", b"junk"), tmp_path / "there")


def test_deployed_clients_are_kept_replaced_listed_and_removed(tmp_path: Path) -> None:
    deployed = Deployed(tmp_path / "apps")
    with pytest.raises(BadInput, match="there are: none"):
        deployed.get("classify")
    first = pack(client(tmp_path / "one"))
    deployed.put(first)
    second = pack(client(tmp_path / "two", body="next_request = list\n"))
    deployed.put(second)
    assert deployed.all() == [second]
    assert deployed.get("classify") == second
    deployed.remove("classify")
    with pytest.raises(BadInput):
        deployed.remove("classify")


def test_a_host_keeps_what_it_was_given_by_content_and_not_for_ever(tmp_path: Path) -> None:
    unpacked = Unpacked(tmp_path / "unpacked")
    packages = [
        Package("p", archive({"generator.py": str(number).encode()}))
        for number in range(MAX_KEPT + 2)
    ]
    assert unpacked.find(packages[0].digest) is None
    for package in packages:
        unpacked.put(package)
        unpacked.put(package)
    found = [unpacked.find(package.digest) is not None for package in packages]
    assert found.count(True) == MAX_KEPT
    assert found[-1]
