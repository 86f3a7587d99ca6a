"""A missing permission is never swallowed: no code of a release's way catches the store's errors and says nothing of them."""

import ast

import pytest

from tests.conftest import ROOT

ROOMS = ("release", "rollout", "serving")
FILES = sorted(path for room in ROOMS for path in (ROOT / "scripts" / room).glob("*.py"))
# these may be a denial, or hold one
BROAD = {"StoreError", "DeniedError", "ClientError", "BotoCoreError", "SeeFoodError", "Exception", "BaseException"}


def names(node):
    return {one.id for one in ast.walk(node) if isinstance(one, ast.Name)} if node is not None else {"BaseException"}


def swallowed(tree):
    """The lines that catch such an error, and neither raise nor mention it."""
    lines = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) == "suppress":
            lines += [node.lineno] if any(names(argument) & BROAD for argument in node.args) else []
        if isinstance(node, ast.Try):
            denials_pass = False
            for handler in node.handlers:
                inside = [one for statement in handler.body for one in ast.walk(statement)]
                raises = any(isinstance(one, ast.Raise) for one in inside)
                mentions = handler.name is not None and any(isinstance(one, ast.Name) and one.id == handler.name for one in inside)
                if names(handler.type) & BROAD and not (raises or mentions or denials_pass):
                    lines.append(handler.lineno)
                denials_pass |= raises and "DeniedError" in names(handler.type)
    return lines


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_errors_of_the_store_are_raised_or_reported(path):
    assert swallowed(ast.parse(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "code",
    [
        "with contextlib.suppress(StoreError):\n    read()",
        "try:\n    read()\nexcept StoreError:\n    pass",
        "try:\n    read()\nexcept (OSError, ClientError) as error:\n    names = []",
        "try:\n    read()\nexcept:\n    pass",
    ],
)
def test_what_says_nothing_is_found(code):
    assert len(swallowed(ast.parse(code))) == 1
