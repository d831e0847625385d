"""Programs in C that benchmarks run, because their own cost must not be seen."""

import hashlib
import subprocess
from pathlib import Path

_SOURCES = Path(__file__).parent
_MADE = _SOURCES / "build"


def compiled(name: str) -> Path:
    """Return the program of `bench/NAME.c`, compiled if it is not there yet."""
    source = _SOURCES / f"{name}.c"
    digest = hashlib.sha256(source.read_bytes()).hexdigest()[:12]
    made = _MADE / f"{name}-{digest}"
    if not made.exists():
        _MADE.mkdir(exist_ok=True)
        subprocess.run(["cc", "-O2", "-static", "-pthread", "-o", made, source], check=True)
    return made
