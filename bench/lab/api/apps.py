"""Routes of custom clients, which are Python that load hosts run: list, look, upload, take, remove.

Whoever may upload may run programs on load hosts. Without a token every program of this machine
could, so that is allowed only where a token is asked for.
"""

import tempfile
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any

from anyio import to_thread
from fastapi import APIRouter, HTTPException, Request, Response

from bench.lab.api.answers import NotFound
from bench.lab.api.context import Context, InContext
from bench.lab.errors import BadInput
from bench.lab.hosts.apps import Deployed, Package, pack, unpack

_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/zip": {"schema": {"type": "string", "format": "binary"}}},
    }
}

router = APIRouter(prefix="/apps", tags=["custom clients"])


@router.get("")
async def apps(context: InContext) -> list[dict[str, Any]]:
    """List the custom clients that workloads can name."""
    packages = await to_thread.run_sync(_deployed(context).all)
    return [_described(package) for package in packages]


@router.post("", status_code=HTTPStatus.CREATED, openapi_extra=_BODY)
async def deploy(context: InContext, request: Request) -> dict[str, Any]:
    """Keep a client, instead of one that had its name: a zip with manifest.yml and generator.py."""
    _refuse_unguarded(context)
    package = await to_thread.run_sync(_repacked, await request.body())
    await to_thread.run_sync(_deployed(context).put, package)
    return _described(package)


@router.get("/{name}")
async def app(context: InContext, name: str) -> dict[str, Any]:
    """Return what is known of a client."""
    return _described(await _get(context, name))


@router.get("/{name}/download")
async def download(context: InContext, name: str) -> Response:
    """Return a client's package."""
    package = await _get(context, name)
    headers = {"Content-Disposition": f'attachment; filename="{package.name}.zip"'}
    return Response(package.data, media_type="application/zip", headers=headers)


@router.delete("/{name}")
async def remove(context: InContext, name: str) -> str:
    """Forget a client; those that run go on."""
    _refuse_unguarded(context)
    await _get(context, name)
    await to_thread.run_sync(_deployed(context).remove, name)
    return name


def _deployed(context: Context) -> Deployed:
    return Deployed.below(context.state_dir)


async def _get(context: Context, name: str) -> Package:
    try:
        return await to_thread.run_sync(partial(_deployed(context).get, name))
    except BadInput as exc:
        raise NotFound(str(exc)) from exc


def _repacked(data: bytes) -> Package:
    """Return the client in an archive, checked, and packed as `myxo lab app deploy` does.

    Raises:
        BadInput: it is none.
    """
    with tempfile.TemporaryDirectory(prefix="myxo-app-") as folder:
        unpacked = Path(folder, "client")
        unpack(Package("the upload", data), unpacked)
        return pack(unpacked)


def _described(package: Package) -> dict[str, Any]:
    return {"name": package.name, "bytes": len(package.data), "sha256": package.digest}


def _refuse_unguarded(context: Context) -> None:
    if not context.guarded:
        raise HTTPException(
            HTTPStatus.FORBIDDEN,
            "clients are programs that load hosts run, so they are uploaded and removed with a "
            "token only: start the API with --token-file FILE, or use `myxo lab app`",
        )
