"""The image of network sandboxes: one static program, and nothing else.

It is loaded into the engine as an archive that is made here, so no builder, no base image and no
registry is needed, and the same program has the same image id on every machine.
"""

import hashlib
import io
import json
import platform
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from overlay.names import Digest

SOURCE = Path(__file__).parents[1] / "sandbox.c"

PROGRAM = SOURCE.with_name(f"sandbox-{platform.machine()}")
"""Where set-up, or the wheel's build, puts the program; the engine is of the same architecture."""

REPOSITORY = "myxo-sandbox"

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm"}
"""What the container world calls the kernel's names."""

_MADE_AT = "1970-01-01T00:00:00Z"


@dataclass(frozen=True, slots=True)
class SandboxImage:
    """What the engine is given, and how it is named there.

    Attributes:
        digest: the image's id.
        archive: what `docker load` takes.
    """

    digest: Digest
    archive: bytes


def sandbox_image(program: bytes) -> SandboxImage:
    """Return the image whose only file is `program`; the same bytes for the same program."""
    layer = _tar({"sandbox": program}, mode=0o555)
    machine = platform.machine()
    config = json.dumps(
        {
            "architecture": ARCHITECTURES.get(machine, machine),
            "os": "linux",
            "created": _MADE_AT,
            "config": {"Entrypoint": ["/sandbox"], "Labels": {"myxo.image": "sandbox"}},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{_sha256(layer)}"]},
        },
        sort_keys=True,
    ).encode()
    digest = _sha256(config)
    manifest = [
        {
            "Config": f"{digest}.json",
            "RepoTags": [f"{REPOSITORY}:{digest[:12]}"],
            "Layers": ["layer.tar"],
        }
    ]
    files = {
        f"{digest}.json": config,
        "layer.tar": layer,
        "manifest.json": json.dumps(manifest).encode(),
    }
    return SandboxImage(Digest(f"sha256:{digest}"), _tar(files, mode=0o444))


def _tar(files: Mapping[str, bytes], mode: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), mode
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
