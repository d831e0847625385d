from bench.lab.shell.completion import offers
from bench.lab.shell.words import LAB_WORDS


def offered(line: str) -> list[str]:
    begun = line.rpartition(" ")[2]
    return offers(line, begun, LAB_WORDS, lambda: ["pico1", "pico2", "graviton"])


def test_the_first_word_is_a_command() -> None:
    assert offered("cl") == ["clients", "close", "clear"]
    assert offered("help sp") == ["spawn"]


def test_hosts_are_offered_where_a_pattern_of_them_is_meant() -> None:
    assert offered("spawn pi") == ["pico1", "pico2"]
    assert offered("clients g") == ["graviton"]
    assert offered("hosts ") == ["pico1", "pico2", "graviton"]


def test_nothing_is_offered_elsewhere() -> None:
    assert offered("spawn pico1 p") == []
    assert offered("sleep p") == []
    assert offered("dance p") == []
