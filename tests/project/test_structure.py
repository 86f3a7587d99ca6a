"""What make promises, the handler's one class, and the starter's files."""

import ast
import re
import subprocess

import pytest

from tests.conftest import ROOT


def test_handler_file_defines_one_class():
    tree = ast.parse((ROOT / "handler" / "seefood_handler.py").read_text())
    assert [node.name for node in tree.body if isinstance(node, ast.ClassDef)] == ["SeefoodHandler"]


def test_make_alone_lists_every_target_with_a_line_of_help():
    makefile = (ROOT / "Makefile").read_text().replace("\\\n", "")
    shown = subprocess.run(["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    phony = re.search(r"\.PHONY: (.*)", makefile)
    assert phony
    promised = {"setup", "data", "train", "evaluate", "export", "archive", "serve", "stop", "predict", "test", "lint", "clean"}
    promised |= {"inspect", "rollout", "rollback", "status", "releases"}
    assert promised <= set(phony[1].split())
    for target in phony[1].split():
        assert re.search(rf"^  make {target} +\w", shown, re.MULTILINE), target


@pytest.mark.parametrize("command", ["export", "archive", "predict", "inspect", "rollout"])
def test_target_without_its_argument_says_which(command):
    done = subprocess.run(["make", command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert f"make {command} " in done.stderr


def test_starter_is_small_and_complete():
    starter = ROOT / "model_store" / "starter"
    names = {path.name for path in starter.iterdir()}
    exported = {
        "model.xml",
        "model.bin",
        "seen.npy",
        "profile.npz",
        "program.json",
        "spec.json",
        "index_to_name.json",
        "golden.json",
    }
    assert exported | {"MODEL_CARD.md", "params.yaml", "metrics.json"} <= names
    assert sum(path.stat().st_size for path in starter.iterdir()) <= 10_000_000
