"""What the modules of this project import, read from their source: for the tests of layers and of the pipeline."""

import ast
from collections.abc import Container, Iterator, Mapping
from functools import cache
from pathlib import Path

from tests.conftest import ROOT

PARTS = ("handler", "scripts", "training")
# the stand-in for torch in TorchServe's worker: a module of that name, on a path of its own
STAND_INS = ("without_torch",)


def module_of(path: Path) -> str:
    """The dotted name of a file below the root; a package's `__init__.py` has the package's."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def read_sources() -> dict[str, str]:
    """The source of each module of the project, tests excepted."""
    paths = [path for part in PARTS for path in sorted((ROOT / part).rglob("*.py")) if not {*path.parts} & {*STAND_INS}]
    return {module_of(path): path.read_text(encoding="utf-8") for path in paths}


@cache
def _read_imports(source: str) -> tuple[tuple[str, tuple[str, ...], int], ...]:
    """(module, names taken from it, line) of each import, inside functions too; those for the type checker alone excepted."""
    tree = ast.parse(source)
    blocks = [node for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    for_types = {id(node) for block in blocks for line in block.body for node in ast.walk(line)}  # not its `else`
    found: list[tuple[str, tuple[str, ...], int]] = []
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            found += [(alias.name, (), node.lineno) for alias in node.names]
        if isinstance(node, ast.ImportFrom):
            names = tuple(alias.name for alias in node.names)
            found.append(("." * node.level + (node.module or ""), names, node.lineno))
    return tuple(found)


def imports(source: str, modules: Container[str]) -> Iterator[tuple[str, int]]:
    """(module, line) of each import. `from package import module` names the module where `modules` has it."""
    for module, names, line in _read_imports(source):
        if not names:
            yield module, line
        for name in names:
            yield f"{module}.{name}" if f"{module}.{name}" in modules else module, line


@cache
def is_command(source: str) -> bool:
    """Whether the module is run: it ends in `if __name__ == "__main__"`."""
    return any(isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'" for node in ast.parse(source).body)


def reachable(module: str, sources: Mapping[str, str]) -> set[str]:
    """The modules of ours that a module imports, directly or not."""
    found: set[str] = set()
    waiting = [module]
    while waiting:
        for name, _ in imports(sources[waiting.pop()], sources):
            if name in sources and name not in found:
                found.add(name)
                waiting.append(name)
    return found
