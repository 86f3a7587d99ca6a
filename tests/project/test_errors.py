"""The tree of errors that scripts/errors.py draws."""

import ast
import textwrap

import scripts.errors
from tests.project.imports import read_sources

BASE = "SeeFoodError"


def classes() -> dict[str, list[str]]:
    """Each class of the project by name, with the names of its bases."""
    found: dict[str, list[str]] = {}
    for source in read_sources().values():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ClassDef):
                found[node.name] = [base.id for base in node.bases if isinstance(base, ast.Name)]
    return found


def drawn(bases: dict[str, list[str]], name: str = BASE, depth: int = 0) -> list[str]:
    children = sorted(child for child, of_child in bases.items() if name in of_child)
    return ["  " * depth + name, *(line for child in children for line in drawn(bases, child, depth + 1))]


def test_tree_is_drawn_as_it_is():
    tree = drawn(classes())
    assert len(tree) > 10
    expected = textwrap.indent("\n".join(tree), "    ")
    names_alone = "\n".join(line.split(" - ")[0].rstrip() for line in str(scripts.errors.__doc__).splitlines())
    assert expected in names_alone, f"scripts/errors.py should draw\n{expected}"


def test_errors_for_people_share_the_base():
    bases = classes()

    def reaches(name: str) -> bool:
        return name == BASE or any(reaches(base) for base in bases.get(name, []))

    outside = {name for name in bases if name.endswith("Error") and not reaches(name)}
    # five are answered with a status, four of them by the worker, which imports nothing of ours; the next is a kind of
    # the first, the one after it never leaves its file; a full disk is an OSError as the system's own is
    answered = {"PhotoError", "RequestError", "HandedError", "TextError", "DoorError"}
    assert outside == answered | {"HiddenError", "NotWantedError", "FullDiskError"}
