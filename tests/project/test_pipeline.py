"""dvc.yaml: each stage depends on exactly the code that its command imports, so that a change reruns it, and no other change."""

import ast
import re

import pytest
import yaml

from tests.conftest import ROOT
from tests.project.imports import reachable, read_sources

STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
SOURCES = read_sources()
CODE = ("handler", "training", "scripts")
QUIET_END = ["from scripts.command import end_quietly_until_run", "end_quietly_until_run()"]
PAGES = sorted(path.relative_to(ROOT).as_posix() for room in CODE for path in (ROOT / room).rglob("__init__.py"))


def code_of(stage: str) -> set[str]:
    """The files that the stage's command imports, directly or not, relative to the checkout, itself among them."""
    command = re.search(r"python -m (\S+)", STAGES[stage]["cmd"])
    assert command, STAGES[stage]["cmd"]
    assert command[1] in SOURCES, f"stage {stage} runs {command[1]}, which does not exist"
    files = {f"{module.replace('.', '/')}.py" for module in {command[1], *reachable(command[1], SOURCES)}}
    return {file for file in files if (ROOT / file).is_file()}  # packages hold nothing that a stage does: see below


@pytest.mark.parametrize("stage", STAGES)
def test_stage_depends_on_exactly_the_code_that_it_imports(stage):
    listed = STAGES[stage]["deps"]
    data = [dep for dep in listed if dep.split("/")[0] not in CODE]
    # a folder stands for all files below it: the archive stage packs handler/ whole
    folders = [dep for dep in listed if dep not in data and (ROOT / dep).is_dir()]
    imported = sorted(file for file in code_of(stage) if not any(file.startswith(f"{folder}/") for folder in folders))
    expected = [*data, *folders, *imported]
    quoted = [f'"{dep}"' if dep.startswith("$") else dep for dep in expected]
    paste = "\n".join(["    deps:", *(f"      - {dep}" for dep in quoted)])
    assert listed == expected, f"the deps of stage {stage} in dvc.yaml must be:\n{paste}"


@pytest.mark.parametrize("page", PAGES)
def test_package_file_holds_its_docstring_and_at_most_how_a_signal_ends_its_commands(page):
    """No stage depends on these files, so nothing in them may change what a stage does."""
    docstring, *others = ast.parse((ROOT / page).read_text()).body
    assert isinstance(docstring, ast.Expr)
    assert [ast.unparse(other) for other in others] in ([], QUIET_END)
