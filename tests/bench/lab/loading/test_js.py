import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.lab.loading.js import Expression, Malformed, Reader, constants, without_comments

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**6), 10**6)
    | st.floats(-1e6, 1e6).map(lambda value: round(value, 3))
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=12,
)


def read(text: str, known: dict[str, object] | None = None) -> object:
    return Reader(text, known or {}).value(0)[0]


@given(values)
def test_all_json_is_read_as_what_it_is(value: object) -> None:
    assert read(json.dumps(value)) == value
    assert read(json.dumps(value, indent=1)) == value


@given(st.text(max_size=60))
def test_nothing_but_a_refusal_comes_of_any_text(text: str) -> None:
    with suppress(Malformed):
        read(text)
    constants(text)
    without_comments(text)


def test_what_javascript_has_beyond_json_is_read() -> None:
    written = """{ a: 'it\\'s', "b": 1_000, c: .5, d: 0xff, e: [1, 2,], f: undefined,
                   g: `x${N}y`, N, /* no */ h: true, // neither
                 }"""
    assert read(written, {"N": 3}) == {
        "a": "it's",
        "b": 1000,
        "c": 0.5,
        "d": 255,
        "e": [1, 2],
        "f": None,
        "g": "x3y",
        "N": 3,
        "h": True,
    }


@pytest.mark.parametrize(
    "source", ["f(1, {a: 2})", "a.b", "60 * 5", "`${f()}`", "(r) => r.x", "-N"]
)
def test_what_is_no_literal_is_kept_as_it_was_written(source: str) -> None:
    assert read(f"[{source}, 1]") == [Expression(source), 1]


def test_declared_literals_are_known_wherever_they_are() -> None:
    script = "const A = 1;\nlet B = 'x'\nexport const C = { a: A };\nvar D = f();"
    assert constants(script) == {"A": 1, "B": "x", "C": {"a": 1}, "D": Expression("f()")}


def test_comments_in_texts_are_none() -> None:
    assert without_comments("a('http://x') // b\n/* c */d").split() == ["a('http://x')", "d"]
