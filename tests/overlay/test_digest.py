import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.digest import Digest, Key, Stamp, bucket_of, empty_buckets
from overlay.names import PeerId

OWNERS = [PeerId(f"owner-{n}") for n in range(40)]
keys = st.tuples(
    st.sampled_from(OWNERS), st.sampled_from(["peer", "instance"]), st.text(max_size=3)
)
stamps = st.tuples(st.floats(0, 2e9), st.integers(0, 1000))
tables = st.dictionaries(keys, stamps, max_size=30)


def digest_of(table: dict[Key, Stamp]) -> Digest:
    digest = Digest()
    for key, stamp in table.items():
        digest.put(key, stamp)
    return digest


@given(tables, st.randoms(use_true_random=False))
def test_equal_tables_have_equal_digests_whatever_their_history(
    table: dict[Key, Stamp], rng: random.Random
) -> None:
    digest = digest_of(table)
    other = Digest()
    order = list(table)
    rng.shuffle(order)
    for key in order:
        other.put(key, (0.0, 0))
        other.put(key, table[key])
        other.put((key[0], "instance", "passing"), (1.0, 1))
        other.drop((key[0], "instance", "passing"))
    kept = {k: v for k, v in table.items() if k[1:] != ("instance", "passing")}
    if kept == table:
        assert other.summary() == digest.summary()
        assert digest.differing(other.summary()) == []


@given(tables, tables)
def test_the_buckets_that_differ_are_those_in_which_the_tables_do(
    one: dict[Key, Stamp], other: dict[Key, Stamp]
) -> None:
    differing = digest_of(one).differing(digest_of(other).summary())
    unequal = {k for k in one.keys() | other.keys() if one.get(k) != other.get(k)}
    assert set(differing) == {bucket_of(key[0]) for key in unequal}


@given(tables, tables)
def test_news_is_what_the_other_lacks_or_has_older(
    one: dict[Key, Stamp], other: dict[Key, Stamp]
) -> None:
    digest = digest_of(one)
    for bucket in digest.differing(digest_of(other).summary()):
        theirs = [(k, s) for k, s in other.items() if bucket_of(k[0]) == bucket]
        expected = {
            k for k, s in one.items() if bucket_of(k[0]) == bucket and other.get(k, (-1.0, 0)) < s
        }
        assert set(digest.news(bucket, theirs)) == expected


def test_an_empty_table_has_empty_buckets_only() -> None:
    assert len(empty_buckets(Digest().summary())) == 128


def test_what_is_no_summary_is_refused() -> None:
    with pytest.raises(ValueError, match="1024 bytes"):
        Digest().differing(b"short")
