"""How an instance's end is said."""

import pytest

from allocator.runtime import PostMortem


@pytest.mark.parametrize(
    ("end", "said"),
    [
        (PostMortem(None), "it ended"),
        (PostMortem(3), "it ended with exit code 3"),
        (PostMortem(137), "it ended with exit code 137 (killed, perhaps for its memory)"),
        (
            PostMortem(137, oom_killed=True),
            "it was killed for using more memory than its MemoryReq",
        ),
        (PostMortem(0, runtime_stopped=True), "its container engine was stopped or lost"),
    ],
)
def test_an_end_is_said_with_what_is_known_of_its_reason(end: PostMortem, said: str) -> None:
    assert str(end) == said
