"""Functions that become services: `myxo serve words`, and every machine can be asked."""

from collections import Counter

import myxo


@myxo.service(concurrency=4)
def count_words(text: str) -> dict[str, int]:
    return dict(Counter(text.lower().split()))


@myxo.service(requires=["pydantic>=2"])
async def longest(words: list[str]) -> str:
    return max(words, key=len)
