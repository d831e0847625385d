"""POSTs images to a model of the classification service: the parameter `model`, else convnet."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.lab.loading.custom import Context

    context: Context  # the lab puts it into this module

IMAGES = [path.read_bytes() for path in sorted(Path(__file__).with_name("images").glob("*.png"))]
if not IMAGES:
    raise FileNotFoundError("no images: python -m demos.classify.pictures draws them")


def next_request() -> tuple[str, str, dict[str, object]]:
    model = context.parameters.get("model", "convnet")  # noqa: F821
    body = context.random.choice(IMAGES)  # noqa: F821
    headers = {"Content-Type": "image/png"}
    return "POST", f"/predictions/{model}", {"data": body, "headers": headers}
