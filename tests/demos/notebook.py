"""Runs a notebook's cells as Jupyter does, and compares what they show with what is kept in it.

Usage: python notebook.py FILE.ipynb
"""

import ast
import asyncio
import inspect
import io
import json
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

FLAGS = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT


async def shown_by(source: str, names: dict[str, Any]) -> str:
    """Run a cell; return what it prints, and then the value of its last line if that is one."""
    body = ast.parse(source).body
    last = body.pop() if body and isinstance(body[-1], ast.Expr) else None
    printed = io.StringIO()
    with redirect_stdout(printed):
        await _run(compile(ast.Module(body, []), "<cell>", "exec", FLAGS), names)
        if isinstance(last, ast.Expr):
            value = await _run(compile(ast.Expression(last.value), "<cell>", "eval", FLAGS), names)
            if value is not None:
                sys.stdout.write(repr(value))
    return printed.getvalue()


async def _run(code: Any, names: dict[str, Any]) -> Any:
    value = eval(code, names)  # noqa: S307  (of this checkout's own notebook)
    return await value if inspect.iscoroutine(value) else value


def kept(cell: dict[str, Any]) -> str:
    """Return what a cell showed when it was saved."""
    texts = [
        output["text"] if output["output_type"] == "stream" else output["data"]["text/plain"]
        for output in cell["outputs"]
    ]
    return "".join(line for lines in texts for line in lines)


async def main(file: Path) -> None:
    names: dict[str, Any] = {"__name__": "__main__"}
    cells = [c for c in json.loads(file.read_text())["cells"] if c["cell_type"] == "code"]
    assert cells, "a notebook has cells"
    for cell in cells:
        source = "".join(cell["source"])
        shown = await shown_by(source, names)
        assert shown == kept(cell), f"{source}\n\nshows {shown!r}, and {kept(cell)!r} is kept"


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
