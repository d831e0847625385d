import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allocator.images.plan import (
    LIE_FACTOR,
    LIE_SLACK_BYTES,
    MAX_LAYERS,
    ImageWrong,
    Plan,
    Rates,
    check_sizes,
    diff_ids,
    digest_of,
    lacking,
)
from allocator.testing_images import make_image
from overlay.names import Digest, PeerId

A, B, C = (digest_of(name.encode()) for name in "abc")
NEAR, FAR = PeerId("near"), PeerId("far")


def test_a_config_names_the_layers_that_its_digest_stands_for() -> None:
    image = make_image(b"base", b"app")
    assert diff_ids(image.config, image.digest) == (digest_of(b"base"), digest_of(b"app"))


def test_another_config_than_that_of_the_digest_is_refused() -> None:
    with pytest.raises(ImageWrong, match="not that of the image"):
        diff_ids(make_image(b"evil").config, make_image(b"good").digest)


@pytest.mark.parametrize(
    "layers", [None, "sha256", ["sha256:../../etc/passwd"], ["sha512:00"], [A] * (MAX_LAYERS + 1)]
)
def test_a_config_whose_layers_are_no_digests_is_refused(layers: object) -> None:
    config = json.dumps({"rootfs": {"diff_ids": layers}}).encode()
    with pytest.raises(ImageWrong):
        diff_ids(config, digest_of(config))


def test_layers_that_the_engine_has_below_others_need_not_come() -> None:
    assert lacking([A, B, C], [[A, C], [A, B]]) == (C,)
    assert lacking([A, B], [[B]]) == (A, B), "an engine keeps a layer with all below it"
    assert lacking([A, B], [[A, B, C]]) == ()


@given(st.lists(st.sampled_from([A, B, C])), st.lists(st.lists(st.sampled_from([A, B, C]))))
def test_what_is_lacking_is_the_end_of_the_layers(
    layers: list[Digest], held: list[list[Digest]]
) -> None:
    missing = lacking(layers, held)
    here = [h for h in held if layers[: len(h)] == h]
    assert set(missing) <= set(layers)
    assert set(layers) <= set(missing) | {layer for h in held for layer in h}
    assert all(len(set(layers[len(h) :]) | set()) >= len(missing) for h in here)


def test_sizes_that_cannot_be_are_refused() -> None:
    assert check_sizes([A], {A: 10, B: 5}, None) == {A: 10}
    with pytest.raises(ImageWrong, match="lacks the layer"):
        check_sizes([A, C], {A: 10}, None)
    with pytest.raises(ImageWrong, match="cannot be"):
        check_sizes([A], {A: LIE_FACTOR * 100 + LIE_SLACK_BYTES + 1}, 100)


def test_sources_take_different_layers() -> None:
    plan = Plan((A, B))
    assert (plan.take(NEAR), plan.take(FAR), plan.take(FAR)) == (A, B, None)
    plan.finish(A)
    plan.finish(B)
    assert plan.finished


def test_what_one_source_puts_back_another_goes_on_with() -> None:
    plan = Plan((A,))
    assert plan.take(NEAR) == A
    plan.gave(A, NEAR)
    plan.put_back(A)
    assert plan.take(FAR) == A
    assert plan.keeps_part(A, FAR)


def test_the_only_giver_of_wrong_bytes_lies() -> None:
    plan = Plan((A,))
    plan.take(NEAR)
    plan.gave(A, NEAR)
    assert plan.spoiled(A)
    assert plan.take(FAR) == A, "the layer is to be had elsewhere"


def test_of_several_givers_of_wrong_bytes_none_is_blamed_and_the_next_is_alone() -> None:
    plan = Plan((A,))
    plan.take(NEAR)
    plan.gave(A, NEAR)
    plan.gave(A, FAR)
    assert not plan.spoiled(A)
    plan.take(FAR)
    plan.gave(A, FAR)
    plan.put_back(A)
    assert not plan.keeps_part(A, NEAR)
    assert plan.keeps_part(A, FAR)
    plan.restarted(A)
    plan.gave(A, NEAR)
    assert plan.spoiled(A)


def test_nobody_is_blamed_for_what_an_earlier_try_left() -> None:
    plan = Plan((A,))
    plan.take(NEAR)
    plan.resumed(A)
    plan.gave(A, NEAR)
    assert not plan.spoiled(A)


def test_peers_go_before_a_registry_as_long_as_they_are_expected_to_be_sooner() -> None:
    rates = Rates()
    assert rates.peers_first(10**8, 0.02)
    assert not rates.peers_first(10**8, None)
    for _ in range(30):
        rates.measured(peers=True, size_bytes=10**6, seconds=10)
    assert not rates.peers_first(10**8, 0.02)
