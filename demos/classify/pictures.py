"""Files of images to what the models take, and back.

`python -m demos.classify.pictures` draws images that the models have never seen, for load.
"""

import argparse
import io
import sys
from pathlib import Path

import numpy as np
from PIL import Image as Picture
from PIL import UnidentifiedImageError

from demos.classify.shapes import CLASSES, SIDE, Image, drawn

FOLDER = Path(__file__).with_name("client") / "images"
SEED = 3
FORMATS = ("PNG", "PPM", "JPEG")
"""PPM is all of PBM, PGM and PPM."""

MOST_SIDE = 2048
"""A small file may say that it is an image of a gigabyte."""


class NoImage(Exception):
    """The bytes are no image that can be read."""


def read(data: bytes) -> Image:
    """Return an image as SIDE x SIDE greys from 0 to 1, made smaller or larger if it has to be.

    Raises:
        NoImage: it is none, or too large.
    """
    if not data:
        raise NoImage("the body is empty: POST the bytes of an image")
    try:
        with Picture.open(io.BytesIO(data), formats=FORMATS) as picture:
            if max(picture.size) > MOST_SIDE:
                raise NoImage(f"the image has {picture.size} pixels, at most {MOST_SIDE} each way")
            grey = picture.convert("L")
    except UnidentifiedImageError as error:
        raise NoImage("the body is no image of PNG, PGM, PPM or JPEG") from error
    except (OSError, ValueError, SyntaxError, Picture.DecompressionBombError) as error:
        raise NoImage(f"the image is broken: {error}") from error
    if grey.size != (SIDE, SIDE):
        grey = grey.resize((SIDE, SIDE))
    return np.asarray(grey, dtype=np.float32) / np.float32(255)


def png(image: Image) -> bytes:
    """Return an image as a PNG of greys."""
    file = io.BytesIO()
    Picture.fromarray(np.rint(image * 255).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def draw(folder: Path, count: int, seed: int) -> None:
    """Write images, named by what they show, classes in turn."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    for number in range(count):
        shape = CLASSES[number % len(CLASSES)]
        (folder / f"{shape}-{number // len(CLASSES):03}.png").write_bytes(png(drawn(shape, random)))


def main() -> None:
    parser = argparse.ArgumentParser(description="draws images of shapes, as PNG")
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("folder", nargs="?", type=Path, default=FOLDER)
    options = parser.parse_args()
    if options.count < 1:
        sys.exit("--count: at least 1")
    draw(options.folder, options.count, options.seed)
    print(f"{options.count} images in {options.folder}")


if __name__ == "__main__":
    main()
