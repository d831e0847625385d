"""Builds the network sandboxes' program into the wheel, or into the checkout; hatchling calls it.

Without a C compiler the package is built all the same. Instances then start without pre-made
sandboxes, and `myxo status` says so.
"""

import platform
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCE = "allocator/sandbox.c"
FLAGS = ("-static", "-Os", "-s", "-Wall", "-Wextra", "-Werror")


class SandboxBuild(BuildHookInterface):  # type: ignore[type-arg]
    """Compiles the program for the machine that builds."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Put the program beside its source; the wheel is then for this architecture alone."""
        del version
        program = f"allocator/sandbox-{platform.machine()}"
        try:
            compile_program(Path(self.root) / SOURCE, Path(self.root) / program)
        except (OSError, subprocess.CalledProcessError) as exc:
            said = getattr(exc, "stderr", None) or exc
            self.app.display_warning(
                f"the network sandboxes' program was not built, so each container takes some "
                f"100 ms longer to start: {said}"
            )
            return
        build_data["artifacts"].append(program)
        build_data["pure_python"] = False
        system = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["tag"] = f"py3-none-{system}"


def compile_program(source: Path, program: Path) -> None:
    """Compile `source`; another process that uses `program` meanwhile sees the old one.

    Raises:
        OSError: there is no compiler.
        CalledProcessError: it refused; `stderr` is what it said.
    """
    fresh = program.with_name(f"{program.name}.new")
    command = ["cc", *FLAGS, "-o", str(fresh), str(source)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    fresh.rename(program)
