import json
from pathlib import Path

import pytest

from overlay.errors import SettingsInvalid
from proxy.control.path_file import PathFile


def write(path: Path, text: str) -> None:
    """As who changes it with care does: there is no moment without a whole file."""
    fresh = path.with_suffix(".new")
    fresh.write_text(text)
    fresh.replace(path)


def test_the_first_look_after_a_change_sees_it(tmp_path: Path) -> None:
    path = tmp_path / "paths.json"
    write(path, json.dumps({"/a": "one"}))
    file = PathFile(path)
    before = file.current()
    assert before.services == {b"/a": "one"}
    assert file.current() is before
    write(path, json.dumps({"/a": "two", "/b": "three"}))
    assert file.current().services == {b"/a": "two", b"/b": "three"}


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"/a": 1}', '{"a": "one"}', '{"/a": "No"}', "[" * 10**5]
)
def test_what_cannot_be_used_is_refused_at_first_and_left_aside_later(
    tmp_path: Path, text: str
) -> None:
    path = tmp_path / "paths.json"
    write(path, text)
    with pytest.raises(SettingsInvalid, match=r"paths\.json"):
        PathFile(path)
    write(path, json.dumps({"/a": "one"}))
    file = PathFile(path)
    write(path, text)
    assert file.current().services == {b"/a": "one"}
    path.unlink()
    assert file.current().services == {b"/a": "one"}
