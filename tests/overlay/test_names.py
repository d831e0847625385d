import difflib

import pytest

from overlay.names import MAX_COMPARED, ServiceName, near_names


def test_the_nearest_names_are_offered_the_closest_first() -> None:
    known = [ServiceName(n) for n in ("hello-world", "hullo", "hello", "bye")]
    assert near_names("helo", known)[0] == "hello"
    assert near_names("zzz", known) == []


def test_among_very_many_names_only_so_many_are_compared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compared: list[list[str]] = []

    def matches(word: str, names: list[str], n: int, cutoff: float) -> list[str]:
        compared.append(names)
        return real(word, names, n, cutoff)

    real = difflib.get_close_matches
    monkeypatch.setattr(difflib, "get_close_matches", matches)
    known = [ServiceName(f"{'red' if n % 2 else 'blue'}-{n:05}") for n in range(10_000)]
    assert near_names("red-00017-", known)[0] == "red-00017"
    assert [len(names) <= MAX_COMPARED for names in compared] == [True]
