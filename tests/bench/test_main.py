import pytest

from bench.__main__ import ALL, PAGE, replaced


def test_a_table_is_put_in_the_place_of_the_one_before() -> None:
    page = "a\n<!-- bench.up -->\nbefore\n<!-- end -->\nb\n<!-- bench.cold -->\n<!-- end -->\n"
    first = replaced(page, "up", "| new |")
    assert first == page.replace("before", "\n| new |\n")
    assert replaced(first, "up", "| newer |") == page.replace("before", "\n| newer |\n")


def test_a_page_without_the_place_is_refused() -> None:
    with pytest.raises(ValueError, match="0 places"):
        replaced("nothing", "up", "")


def test_the_page_has_a_place_for_every_benchmark() -> None:
    for name in ALL:
        assert "| t |" in replaced(PAGE.read_text(), name, "| t |")
