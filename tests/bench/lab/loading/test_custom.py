from pathlib import Path
from random import Random

import pytest

from bench.lab.errors import BadInput, LoadFailed
from bench.lab.loading.custom import Context, find_client, messages
from bench.lab.loading.target import target_of

TARGET = target_of("http://example.org/")
CONTEXT = Context({"name": "ada"}, "h:s:0", Random(1))

GENERATOR = """
from words import WORD

def next_request():
    name = context.parameters["name"]
    return "POST", f"/{name}", {"data": f"{WORD} {context.random.randint(1, 9)}"}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "manifest.yml").write_text("name: greeter\n")
    (tmp_path / "generator.py").write_text(GENERATOR)
    (tmp_path / "words.py").write_text("WORD = 'hello'\n")
    return tmp_path


def test_a_directory_says_its_name_and_makes_requests(folder: Path) -> None:
    client = find_client(folder)
    assert client.name == "greeter"
    made = messages(client, TARGET, CONTEXT)()
    assert made.data.startswith(b"POST /ada HTTP/1.1\r\n")
    assert made.data.endswith(b"hello 3")


def test_a_file_alone_is_a_client(tmp_path: Path) -> None:
    file = tmp_path / "asker.py"
    file.write_text("def next_request():\n    return 'GET', '/x'\n")
    client = find_client(file)
    assert client.name == "asker"
    assert messages(client, TARGET, CONTEXT)().data.startswith(b"GET /x ")


def test_nothing_runs_when_a_client_is_looked_at(tmp_path: Path) -> None:
    file = tmp_path / "bad.py"
    file.write_text("def next_request(): ...\nraise SystemExit('it ran')\n")
    find_client(file)


@pytest.mark.parametrize(
    ("manifest", "generator", "says"),
    [
        ("", GENERATOR, "does not say `name"),
        ("name: [", GENERATOR, "no YAML"),
        ("name: a", "x = 1", "has no function next_request"),
        ("name: a", "def next_request(:", "client a"),
    ],
)
def test_a_directory_that_is_no_client_is_refused(
    folder: Path, manifest: str, generator: str, says: str
) -> None:
    (folder / "manifest.yml").write_text(manifest)
    (folder / "generator.py").write_text(generator)
    with pytest.raises(BadInput, match=says):
        find_client(folder)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"manifest\.yml cannot be read"):
        find_client(tmp_path)
    (tmp_path / "manifest.yml").write_text("name: a")
    with pytest.raises(BadInput, match=r"generator\.py: No such file"):
        find_client(tmp_path)


def test_code_that_raises_when_it_is_loaded_is_named(tmp_path: Path) -> None:
    file = tmp_path / "bad.py"
    file.write_text("def next_request(): ...\n1 / 0\n")
    with pytest.raises(BadInput, match=r"client bad: .*ZeroDivisionError.*line 2"):
        messages(find_client(file), TARGET, CONTEXT)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("raise KeyError('a')", r"raised KeyError: 'a' \(line 2\)"),
        ("return 'GET'", r"which is not \(method, path, kwargs\)"),
        ("return 'GET', '/', {'verify': False}", "a request has no verify"),
    ],
)
def test_what_next_request_does_wrong_is_named(tmp_path: Path, body: str, says: str) -> None:
    file = tmp_path / "bad.py"
    file.write_text(f"def next_request():\n    {body}\n")
    next_message = messages(find_client(file), TARGET, CONTEXT)
    with pytest.raises(LoadFailed, match=says):
        next_message()
