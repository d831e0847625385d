"""What an image is built from: the Dockerfile, and the archive of the files that it copies.

Commands are written in JSON form, each run by `/bin/sh -c`: so a command means to the shell what it
says in the configuration, `$SERVICE_PORT` included, and no line break or backslash in it means
anything to the Dockerfile. Sources are packed from below one directory and from nowhere else:
a link that leads out of it is refused, not followed.
"""

import io
import json
import tarfile
from pathlib import Path
from typing import IO

from overlay.spec import DEFAULT_PORT
from registry.conf.docker import DockerConf
from registry.errors import ConfInvalid

WORKDIR = "/app"
DOCKERFILE = "Dockerfile"

DEFAULT_PROXY_PORT = 4200

_PATTERN_SIGNS = frozenset("*?[]\\")
"""Docker takes them for a pattern in the source of a COPY."""


def dockerfile(conf: DockerConf, port: int = DEFAULT_PORT) -> str:
    """Return the Dockerfile of a configuration whose service listens on `port`."""
    lines = [
        f"FROM {conf.base}",
        f"WORKDIR {WORKDIR}",
        f"ENV SERVICE_PORT={port} PORT={port} PROXY_PORT={DEFAULT_PROXY_PORT} PROXY_IP=127.0.0.1",
    ]
    for index, (source, destination) in enumerate(conf.copies):
        lines.append("COPY " + _json_form(f"{index}/{Path(source).name or '.'}", destination))
    lines += ["RUN " + _shell_form(command) for command in conf.run]
    lines.append(f"EXPOSE {port}")
    if conf.cmd:
        lines.append("CMD " + _shell_form(conf.cmd))
    return "\n".join(lines) + "\n"


def write_context(conf: DockerConf, directory: Path, text: str, archive: IO[bytes]) -> None:
    """Write the build's archive: the Dockerfile `text`, and source N as `N/<its own name>`.

    Raises:
        ConfInvalid: a source is missing, leads out of `directory`, or is no file or directory.
    """
    root = _root(directory)
    with tarfile.open(fileobj=archive, mode="w") as tar:
        info = tarfile.TarInfo(DOCKERFILE)
        info.size = len(text.encode())
        tar.addfile(info, io.BytesIO(text.encode()))
        for index, (source, _) in enumerate(conf.copies):
            path = _inside(root, source)
            name = f"{index}/{Path(source).name or '.'}"
            try:
                tar.add(path, name, filter=lambda member: _plain(member, source))  # noqa: B023
            except OSError as exc:
                raise ConfInvalid(
                    f"{exc.filename or path}, which DockerConf.Copy names, cannot be read: "
                    f"{exc.strerror}"
                ) from exc


def _root(directory: Path) -> Path:
    root = directory.resolve()
    if not root.is_dir():
        raise ConfInvalid(f"{directory} is no directory; --dir names where Copy's sources are")
    return root


def _inside(root: Path, source: str) -> Path:
    if _PATTERN_SIGNS & set(source):
        raise ConfInvalid(f"DockerConf.Copy's source {source!r} has one of * ? [ ] \\ in its name")
    path = (root / source).resolve()
    if Path(source).is_absolute() or not path.is_relative_to(root):
        raise ConfInvalid(
            f"DockerConf.Copy's source {source!r} lies outside {root}; copy it there, or name a "
            "directory above it with --dir"
        )
    if not path.exists():
        raise ConfInvalid(
            f"DockerConf.Copy's source {source!r} does not exist in {root}; --dir names where the "
            "sources are"
        )
    return path


def _plain(member: tarfile.TarInfo, source: str) -> tarfile.TarInfo:
    if not (member.isreg() or member.isdir() or member.issym() or member.islnk()):
        raise ConfInvalid(
            f"DockerConf.Copy's source {source!r} holds {member.name}, which is neither a file "
            "nor a directory"
        )
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


def _shell_form(command: str) -> str:
    return _json_form("/bin/sh", "-c", command)


def _json_form(*words: str) -> str:
    return json.dumps(list(words))
