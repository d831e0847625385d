"""What an engine says to what is no image's name."""

import pytest

from allocator.engine.containers import Ownership
from allocator.engine.docker import DockerRuntime
from allocator.errors import ImageMissing
from allocator.runtime import Launch
from overlay.names import Digest, InstanceId, PeerId, ServiceName
from overlay.spec import Image, ServiceSpec

pytestmark = pytest.mark.docker


@pytest.mark.parametrize("reference", ["http://x@sha256:0", "-x.example/y", ""])
async def test_what_is_no_image_s_name_is_missing(reference: str) -> None:
    runtime = DockerRuntime(Ownership("network", PeerId("me")))
    image = Image(reference="x", config_digest=Digest("sha256:0"), repo_digest=reference)
    spec = ServiceSpec(image=image)
    launch = Launch(InstanceId("an-id"), ServiceName("hello"), 1, PeerId("owner"), spec, 4200)
    with pytest.raises(ImageMissing):
        await runtime.pull(launch)
