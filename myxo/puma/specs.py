"""What a program's services are to the network: their names, and their definitions.

Pure: configuration and sources in, definitions out.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from myxo.puma.configuration import PumaConfig
from myxo.puma.errors import SourceInvalid
from myxo.puma.shipping import FUNCTION, MAX_PIECES, PIECE, packed
from myxo.puma.source import Source
from myxo.requirements import IMAGE, REQUIRES
from overlay.names import PeerId, ServiceName, service_name
from overlay.spec import ServiceSpec

COMMAND = 'exec "$SERVICE_PYTHON" -m myxo.puma.server'
"""By the interpreter of the machine's own allocator, which has what a service needs."""

IMAGE_COMMAND = "PUMA_HOST=0.0.0.0 exec python3 -m myxo.puma.server"
"""By the image's own; what is listened on in a container is reached from its machine alone."""

MAX_BYTES = MAX_PIECES * PIECE * 4 // 5
"""Of code, which base85 makes a quarter longer."""

_MAX_STEM = 20


def name_of(key: str, program: Path | None, owner: PeerId) -> ServiceName:
    """Return the name in the network of a service: one program's and one owner's.

    Names belong to who first took them, and many a program is called service.py.
    """
    stem = _slug("puma" if program is None else program.stem)[:_MAX_STEM].strip("-")
    tag = hashlib.sha256(f"{owner} {key}".encode()).hexdigest()[:6]
    return service_name(f"{stem or 'puma'}-{_slug(key)}-{tag}")


def spec_of(key: str, source: Source, config: PumaConfig) -> ServiceSpec:
    """Return the definition of the service `key`, less its image.

    Raises:
        SourceInvalid: its code is larger than a definition.
    """
    variables = packed(source.modules)
    if len(variables) > MAX_PIECES:
        raise SourceInvalid(
            f"the code of {key} with the modules beside its program has over {MAX_BYTES} bytes "
            f"when compressed: install what is large ({', '.join(_largest(source.modules))})"
        )
    rate = config.rate_limit
    limited = rate is not None and rate.cluster_name in {None, key}
    return ServiceSpec(
        **_runs(config),
        env={FUNCTION: source.function, **variables, **_needs(config)},
        policy=config.load_balancer,
        global_rate_limit=rate.limit if rate is not None and limited else None,
    )


def _runs(config: PumaConfig) -> dict[str, Any]:
    if config.image is None:
        return {"process": COMMAND}
    return {"command": IMAGE_COMMAND, "read_only": True, "cap_drop_all": True}


def _needs(config: PumaConfig) -> dict[str, str]:
    requires = {REQUIRES: json.dumps(config.requires)} if config.requires else {}
    return requires | ({} if config.image is None else {IMAGE: config.image})


def _largest(modules: Mapping[str, str]) -> list[str]:
    return sorted(modules, key=lambda name: -len(modules[name]))[:3]


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9-]+", "-", text.lower()).strip("-")
