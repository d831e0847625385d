import ast
import inspect
import os
import textwrap
from pathlib import Path
from typing import Any

import pytest

from myxo.puma.errors import SourceInvalid
from myxo.puma.shipping import MODULE
from myxo.puma.slicing import Program, free_names
from myxo.puma.source import Source, source_of

PROGRAM = """
import json, uuid
import numpy as np
from os import path as p
from pathlib import Path

GREETING = "hello"
LOUD = GREETING.upper()
started = print("this is the program, and not the service")

@staticmethod
def helper(x):
    return LOUD + json.dumps(x) + later()

def later():
    return "!"

class Other:
    pass

if __name__ == "__main__":
    SECRET = 1
"""


def sliced(text: str) -> tuple[str, frozenset[str]]:
    return Program(PROGRAM).slice(textwrap.dedent(text))


def test_a_service_begins_with_what_it_uses_of_its_program_and_nothing_else() -> None:
    used, lacking = sliced("def f():\n    return helper(request.form)\n")
    assert not lacking
    assert [ast.unparse(s).splitlines()[0] for s in ast.parse(used).body] == [
        "import json, uuid",
        "GREETING = 'hello'",
        "LOUD = GREETING.upper()",
        "@staticmethod",
        "def later():",
    ]


@pytest.mark.parametrize("name", ["SECRET", "missing"])
def test_what_is_defined_nowhere_is_named(name: str) -> None:
    used, lacking = sliced(f"def f():\n    return {name}\n")
    assert (used, lacking) == ("", frozenset({name}))


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("def f(a):\n    b = a\n    return b + c", {"c"}),
        ("def f():\n    import os\n    return os.sep", set()),
        ("def f():\n    return [x for x in y]", {"y"}),
        ("def f():\n    def g():\n        return f() + h()\n    return g", {"h"}),
        ("def f():\n    global n\n    n = 1\ndef g():\n    return n", set()),
        ("class A(B):\n    x: int = y", {"B", "y"}),
        ("try:\n    import a\nexcept ImportError:\n    a = None\nprint(a)", set()),
        ("def f(x=default): return x", {"default"}),
        ("@wraps\ndef f(): return request", {"wraps"}),
    ],
)
def test_free_names_are_what_a_module_uses_and_does_not_define(text: str, names: set[str]) -> None:
    assert free_names(text) == names


SUFFIX = os.sep


def service_function() -> str:
    return str(request.form["x"]) + SUFFIX  # type: ignore[name-defined]  # noqa: F821


def two_functions() -> str:
    return """
        def helping():
            return 1

        def service1():
            return helping()
    """


def made(given: Any, program: Path | None = None, key: str = "service1") -> Source:
    return source_of(key, given, program)


def test_a_function_its_source_and_its_lines_are_the_same_service() -> None:
    here = Path(__file__)
    found = [
        made(given, here)
        for given in (
            service_function,
            inspect.getsource(service_function),
            inspect.getsourcelines(service_function),
            list(inspect.getsourcelines(service_function)),
        )
    ]
    assert all(source == found[0] for source in found)
    assert found[0].function == "service_function"
    text = found[0].modules[MODULE]
    assert "SUFFIX = os.sep" in text
    assert "import os" in text
    assert "pytest" not in text


def test_nothing_of_it_is_run_here(tmp_path: Path) -> None:
    program = tmp_path / "service.py"
    program.write_text("raise SystemExit('the program was run')\nX = 1 / 0\n")
    source = made("raise SystemExit('the service was run')\ndef f(): return X", program)
    assert "X = 1 / 0" in source.modules[MODULE]


def test_of_several_functions_the_one_that_is_named_as_the_service_answers() -> None:
    assert made(two_functions()).function == "service1"
    with pytest.raises(SourceInvalid, match="helping, service1"):
        made(two_functions(), key="service2")


def test_modules_beside_the_program_travel_with_it_and_installed_ones_do_not(
    tmp_path: Path,
) -> None:
    program = tmp_path / "service.py"
    program.write_text("import engine\nfrom pack import part\nimport httpx\nimport unused\n")
    (tmp_path / "engine.py").write_text("from words import WORDS\nimport json\n")
    (tmp_path / "words.py").write_text("WORDS = ()\n")
    (tmp_path / "unused.py").write_text("")
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "__init__.py").write_text("")
    (tmp_path / "pack" / "part.py").write_text("from . import other\nfrom .deep import x\n")
    (tmp_path / "pack" / "other.py").write_text("import engine\n")
    (tmp_path / "pack" / "deep.py").write_text("x = 1\n")
    text = "def f(): return engine, part, httpx"
    assert set(made(text, program).modules) == {
        MODULE,
        "engine",
        "words",
        "pack.__init__",
        "pack.part",
        "pack.other",
        "pack.deep",
    }


def closure() -> Any:
    captured = 1

    def inner() -> int:
        return captured

    return inner


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (lambda: "x", "lambda"),
        (closure(), "captured"),
        ("def f(:", "no Python"),
        ("x = 1", "has no function"),
        ("def f(): return undefined_name", "undefined_name"),
        (7, "getsourcelines"),
        ([1, 2], "getsourcelines"),
        ("", "has no function"),
        (len, "getsourcelines"),
    ],
)
def test_what_cannot_be_a_service_is_refused_by_name(given: Any, said: str) -> None:
    with pytest.raises(SourceInvalid, match=f"service1.*{said}"):
        made(given)
