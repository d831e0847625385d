"""What a service's code uses of its program: the statements that define it, and no other.

A service is a function of a program, and uses imports, constants and other functions of it. So its
module begins with those statements at the program's top level that bind the names it uses, and
those that they use in turn, in the program's order. What a program does besides, it does itself:
nothing below `if __name__ == "__main__"`, and no statement that only has an effect, is in it.

Pure: text in, text out. Nothing is run.
"""

import ast
import builtins
import symtable
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

GIVEN = frozenset(dir(builtins)) | {
    "request",
    "__name__",
    "__file__",
    "__doc__",
    "__spec__",
    "__annotations__",
}
"""Names that every service has."""


def free_names(text: str) -> frozenset[str]:
    """Return what a module uses and does not define.

    Raises:
        SyntaxError: it is none.
    """
    top = symtable.symtable(text, "<service>", "exec")
    return frozenset(_used(top)) - bound_names(text) - GIVEN


def bound_names(text: str) -> frozenset[str]:
    """Return what a module defines at its top level, or in a function that says `global`."""
    top = symtable.symtable(text, "<service>", "exec")
    own = {s.get_name() for s in top.get_symbols() if s.is_assigned() or s.is_imported()}
    return frozenset(own | set(_declared(top)))


def _used(table: symtable.SymbolTable) -> Iterable[str]:
    is_module = table.get_type() == "module"
    for symbol in table.get_symbols():
        if symbol.is_referenced() and (is_module or symbol.is_global()):
            yield symbol.get_name()
    for child in table.get_children():
        yield from _used(child)


def _declared(table: symtable.SymbolTable) -> Iterable[str]:
    for child in table.get_children():
        for symbol in child.get_symbols():
            if symbol.is_declared_global() and symbol.is_assigned():
                yield symbol.get_name()
        yield from _declared(child)


def functions(text: str) -> list[str]:
    """Return the names of the functions at a module's top level, in their order."""
    return [s.name for s in ast.parse(text).body if isinstance(s, ast.FunctionDef)]


@dataclass(frozen=True)
class Program:
    """A program's text."""

    text: str

    @cached_property
    def _statements(self) -> list[tuple[str, frozenset[str]]]:
        """Its top-level statements, in order, each with the names that it binds."""
        found = []
        for statement in ast.parse(self.text).body:
            if not _is_main_guard(statement):
                text = ast.get_source_segment(self.text, _with_decorators(statement)) or ""
                found.append((text, bound_names(text)))
        return found

    def slice(self, text: str) -> tuple[str, frozenset[str]]:
        """Return the statements that a module needs, and the names that are defined nowhere.

        Args:
            text: the module.

        Raises:
            SyntaxError: it, or the program, is no Python.
        """
        defined = bound_names(text)
        wanted, chosen = set(free_names(text)), set[int]()
        lacking = set[str]()
        while wanted:
            name = wanted.pop()
            binding = [i for i, (_, names) in enumerate(self._statements) if name in names]
            if not binding:
                lacking.add(name)
            for index in set(binding) - chosen:
                chosen.add(index)
                needed = free_names(self._statements[index][0]) - defined - lacking
                wanted |= needed
        stars = [i for i, (text, _) in enumerate(self._statements) if _is_star(text)]
        if lacking and stars:
            chosen, lacking = chosen | set(stars), set()
        kept = [self._statements[index][0] for index in sorted(chosen)]
        return "\n".join(kept), frozenset(lacking)


def _is_main_guard(statement: ast.stmt) -> bool:
    match statement:
        case ast.If(test=ast.Compare(left=ast.Name(id="__name__"))):
            return True
        case _:
            return False


def _is_star(text: str) -> bool:
    match ast.parse(text).body:
        case [ast.ImportFrom(module=str() as module, names=[ast.alias(name="*")])]:
            return module != "myxo.puma"
        case _:
            return False


def _with_decorators(statement: ast.stmt) -> ast.stmt:
    """Return a statement that begins where its first decorator does."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and (
        decorators := statement.decorator_list
    ):
        statement.lineno = decorators[0].lineno
        statement.col_offset = 0
    return statement
