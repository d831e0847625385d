"""The classification demo: its networks, its images, and the service however it is started."""

import io
import json
import os
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from random import Random
from typing import Any

import docker
import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Picture
from scipy.signal import correlate

from bench.lab.loading.custom import Context, find_client, messages
from bench.lab.loading.target import target_of
from bench.network import Network, environment
from demos.classify.layers import Convolution, Dense, Flat, Largest, Layer, Positive, applied
from demos.classify.models import (
    HELD_OUT,
    HELD_OUT_SEED,
    MADE,
    WEIGHTS,
    Model,
    keep,
    model,
    trained,
)
from demos.classify.pictures import FOLDER, NoImage, draw, png, read
from demos.classify.shapes import CLASSES, SIDE, drawn, labelled
from demos.classify.training import accuracy, probabilities, train

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "demos" / "classify"
COMMAND = f"exec {sys.executable} -m demos.classify.service $SERVICE_PORT 127.0.0.1"
LEAST_RIGHT = {"perceptron": 0.75, "convnet": 0.85}
"""A guess is right one time in six."""

Serving = Callable[..., AbstractContextManager[str]]


@pytest.fixture(scope="session")
def kept() -> Path:
    """The models' weights, in the folder in which the demo keeps them."""
    for name in MADE:
        if not (WEIGHTS / f"{name}.npz").is_file():
            keep(name, trained(name))
    return WEIGHTS


# images


def test_the_same_seed_draws_the_same_images() -> None:
    (first, labels), (second, same) = labelled(12, 5), labelled(12, 5)
    assert np.array_equal(first, second)
    assert np.array_equal(labels, same)
    assert not np.array_equal(first, labelled(12, 6)[0])


@pytest.mark.parametrize("shape", CLASSES)
def test_a_shape_is_brighter_than_what_is_around_it(shape: str) -> None:
    image = drawn(shape, np.random.default_rng(1))
    assert image.shape == (SIDE, SIDE)
    assert 0 <= image.min() < 0.35
    assert 0.55 < image.max() <= 1


@pytest.mark.parametrize("form", ["PNG", "PPM"])
def test_an_image_is_read_as_it_was_written(form: str) -> None:
    image = drawn("ring", np.random.default_rng(1))
    file = io.BytesIO()
    Picture.open(io.BytesIO(png(image))).save(file, form)
    assert np.abs(read(file.getvalue()) - image).max() <= 0.5 / 255 + 1e-6


def test_an_image_of_another_size_or_of_colours_is_made_to_fit() -> None:
    file = io.BytesIO()
    Picture.new("RGB", (300, 100), (255, 255, 255)).save(file, "JPEG")
    assert np.allclose(read(file.getvalue()), np.ones((SIDE, SIDE)), atol=0.01)


@given(st.binary(max_size=200), st.integers(0, 400))
def test_what_is_broken_is_refused_or_read_and_nothing_else(noise: bytes, at: int) -> None:
    whole = png(drawn("disc", np.random.default_rng(1)))
    for data in (noise, whole[:at], whole[:at] + noise):
        with suppress(NoImage):
            assert read(data).shape == (SIDE, SIDE)


def test_an_image_that_would_fill_the_memory_is_refused() -> None:
    file = io.BytesIO()
    Picture.new("L", (5000, 5000)).save(file, "PNG")
    with pytest.raises(NoImage, match="at most 2048"):
        read(file.getvalue())


# the networks


def _networks(random: np.random.Generator) -> Iterator[tuple[list[Layer], tuple[int, ...]]]:
    yield [Flat(), Dense(12, 5, random), Positive(), Dense(5, 3, random)], (2, 2, 3, 2)
    yield (
        [Convolution(3, 2, 4, random), Largest(2), Positive(), Flat(), Dense(16, 3, random)],
        (2, 6, 6, 2),
    )


def test_gradients_are_how_the_outcome_changes_with_each_weight() -> None:
    random = np.random.default_rng(3)
    for layers, shape in _networks(random):
        for layer in layers:
            layer.weights[:] = [weight.astype(np.float64) for weight in layer.weights]
        batch: Any = random.normal(size=shape)
        wanted = random.normal(size=(2, 3))
        out = batch
        for layer in layers:
            out = layer.forward(out)
        gradient: Any = wanted
        for layer in reversed(layers):
            gradient = layer.backward(gradient)
        for layer in layers:
            for weight, found in zip(layer.weights, layer.gradients, strict=True):
                place = tuple(random.integers(0, size) for size in weight.shape)
                before = weight[place]
                ends = []
                for step in (1e-5, -1e-5):
                    weight[place] = before + step
                    ends.append(float((applied(layers, batch) * wanted).sum()))
                weight[place] = before
                assert found[place] == pytest.approx((ends[0] - ends[1]) / 2e-5, abs=1e-6)


def test_a_convolution_is_scipys_correlation() -> None:
    random = np.random.default_rng(4)
    layer = Convolution(3, 1, 1, random)
    image = random.normal(size=(7, 7)).astype(np.float32)
    found = layer.apply(image[None, :, :, None])[0, ..., 0]
    expected = correlate(image, layer.weights[0].reshape(3, 3), mode="valid")
    assert np.allclose(found, expected, atol=1e-5)


def test_training_makes_a_network_better_than_a_guess() -> None:
    random = np.random.default_rng(5)
    layers: list[Layer] = [Flat(), Dense(SIDE * SIDE, len(CLASSES), random)]
    images, labels = labelled(300, 5)
    before = accuracy(layers, images[..., None], labels)
    train(layers, images[..., None], labels, rounds=10, seed=5)
    assert before < 0.35
    assert accuracy(layers, images[..., None], labels) > 0.5


def test_probabilities_of_any_scores_are_some() -> None:
    found = probabilities(np.array([[1e4, 0.0, -1e4], [1.0, 1.0, 1.0]], np.float32))
    assert np.allclose(found, np.array([[1.0, 0.0, 0.0], [1 / 3, 1 / 3, 1 / 3]]))


def test_weights_are_read_as_they_were_kept(tmp_path: Path) -> None:
    make, _ = MADE["perceptron"]
    layers = make(np.random.default_rng(8))
    keep("perceptron", layers, tmp_path)
    image = drawn("cross", np.random.default_rng(1))
    assert model("perceptron", tmp_path).told(image) == Model(layers).told(image)
    assert [file.name for file in tmp_path.iterdir()] == ["perceptron.npz"]


def test_weights_of_another_network_are_refused_by_name(tmp_path: Path) -> None:
    layers = MADE["perceptron"][0](np.random.default_rng(8))
    keep("convnet", layers, tmp_path)
    with pytest.raises(SystemExit, match=r"convnet\.npz is of another version"):
        model("convnet", tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_both_models_tell_most_images_that_they_have_never_seen(kept: Path) -> None:
    images, labels = labelled(HELD_OUT, HELD_OUT_SEED)
    for name, least in LEAST_RIGHT.items():
        assert accuracy(model(name, kept).layers, images[..., None], labels) > least


# the client of the lab


def test_the_labs_client_posts_images_to_the_model_that_is_named(tmp_path: Path) -> None:
    folder = _client(tmp_path)
    context = Context({"model": "perceptron"}, "h:s:0", Random(1))
    said = messages(find_client(folder), target_of("http://example.org/"), context)().data
    head, _, body = said.partition(b"\r\n\r\n")
    assert head.startswith(b"POST /predictions/perceptron HTTP/1.1\r\n")
    assert read(body).shape == (SIDE, SIDE)


def _client(folder: Path) -> Path:
    """Return a copy of the client, with images."""
    for name in ("manifest.yml", "generator.py"):
        (folder / name).write_text((DEMO / "client" / name).read_text())
    draw(folder / FOLDER.name, count=12, seed=3)
    return folder


# the service by itself, on a network, and in the routing table


@pytest.fixture(scope="module")
def alone(kept: Path, serving: Serving) -> Iterator[str]:
    """A service that Myxo knows nothing of."""
    assert kept.is_dir()
    with serving([sys.executable, "-m", "demos.classify.service"]) as url:
        yield url


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_service_tells_what_is_on_an_image(alone: str) -> None:
    _asked(alone)
    assert httpx.get(f"{alone}/ping").json() == {"status": "Healthy!"}
    assert {one["modelName"] for one in httpx.get(f"{alone}/models").json()["models"]} == set(MADE)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("path", "body", "status", "says"),
    [
        ("/predictions/squeezenet", b"", 404, "perceptron and convnet"),
        ("/predictions/convnet", b"", 400, "the body is empty"),
        ("/predictions/convnet", b"no image", 400, "no image of PNG"),
        ("/predictions/convnet", b"x" * 100_000, 413, "at most 65536 bytes"),
        ("/elsewhere", b"", 404, "POST /predictions/MODEL"),
    ],
)
def test_a_mistake_is_explained(alone: str, path: str, body: bytes, status: int, says: str) -> None:
    answer = httpx.post(f"{alone}{path}", content=body)
    assert answer.status_code == status
    assert says in answer.text


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_myxo_starts_it_and_the_lab_loads_it(kept: Path, running: Network, tmp_path: Path) -> None:
    assert kept.is_dir()
    conf = str(DEMO / "service-conf.json")
    running.registry_cli("add", "--conf", conf, "--process", COMMAND, "classify")
    _asked(running.url("classify"))
    figures = _loaded(running, "classify", tmp_path)
    assert figures["sent"] == figures["asked"] == 40
    assert figures["failed"] == 0


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_one_that_runs_already_is_named_in_the_routing_table(
    alone: str, running: Network, tmp_path: Path
) -> None:
    _rtable(running, "set", "squeezenet", alone.removeprefix("http://"))
    try:
        _asked(running.url("squeezenet"))
        assert _loaded(running, "squeezenet", tmp_path)["failed"] == 0
    finally:
        _rtable(running, "unset", "squeezenet")


@pytest.mark.slow
@pytest.mark.docker
@pytest.mark.timeout(900)
def test_it_runs_in_an_image_that_comes_from_no_registry(
    kept: Path, engine: docker.DockerClient
) -> None:
    base = f"myxo-test-classify:{os.getpid()}"
    make = [sys.executable, "demos/worker_image.py", "--tag", base, "numpy", "pillow"]
    subprocess.run(make, cwd=ROOT, check=True)
    try:
        container = engine.containers.create(
            base,
            ["/bin/sh", "-c", "cd /app && exec python3 -m demos.classify.service 8080"],
            cap_drop=["ALL"],
        )
        try:
            container.put_archive("/", _archive(kept))
            container.start()
            container.reload()
            address = container.attrs["NetworkSettings"]["IPAddress"]
            _asked(f"http://{address}:8080")
        finally:
            container.remove(force=True)
    finally:
        engine.images.remove(base, force=True)


def _archive(kept: Path) -> bytes:
    """Return what service-conf.json copies, below /app."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        tar.add(ROOT / "demos" / "serving.py", "app/demos/serving.py")
        for path in (*DEMO.glob("*.py"), *kept.glob("*.npz")):
            tar.add(path, f"app/{path.relative_to(ROOT)}")
    return file.getvalue()


def _asked(url: str) -> None:
    """Ask both models for each class; most answers are right."""
    transport = httpx.HTTPTransport(retries=9)
    random = np.random.default_rng(9)
    right: Counter[str] = Counter()
    with httpx.Client(transport=transport, timeout=120) as client:
        for name in MADE:
            for shape in CLASSES:
                image = png(drawn(shape, random))
                answer = client.post(f"{url}/predictions/{name}", content=image)
                assert answer.status_code == 200, answer.text
                told = answer.json()
                assert sum(one["probability"] for one in told) == pytest.approx(1, abs=1e-4)
                assert {one["class"] for one in told} == set(CLASSES)
                right[name] += told[0]["class"] == shape
    assert all(right[name] > len(CLASSES) / 2 for name in MADE), right


def _loaded(running: Network, service: str, folder: Path) -> dict[str, Any]:
    """Return the figures of a short load by the demo's own client."""
    load = ["load", service, "--client", str(_client(folder)), "--parameter", "model=perceptron"]
    schedule = ["--profile", "constant:20", "--duration", "2s", "--json"]
    proxy = ["--proxy", f"127.0.0.1:{running.proxy_port}"]
    done = _myxo(running, "lab", *load, *schedule, *proxy)
    figures: dict[str, Any] = json.loads(done)
    return figures


def _rtable(running: Network, *arguments: str) -> None:
    _myxo(running, "rtable", *arguments)


def _myxo(running: Network, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "myxo", *arguments],
        env=environment(running.folder),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
