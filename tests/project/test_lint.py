"""`make lint` finds what is wrong in a workflow; actionlint, for expressions and scripts, runs before a commit and on GitHub."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT

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
"""


@pytest.fixture
def folder(tmp_path):
    """A folder with our own .github in it, and the packages that are installed here."""
    shutil.copytree(ROOT / ".github", tmp_path / ".github")
    (tmp_path / ".venv").symlink_to(sys.prefix)
    return tmp_path


def lint(folder):
    """What each line of `make lint` that checks workflows printed, where it found something."""
    command = ["make", "-n", "lint", "--old-file=.venv/installed-dev"]
    lines = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    checks = [line for line in lines if ".github" in line]
    assert len(checks) == 3
    found = [subprocess.run(line, shell=True, cwd=folder, capture_output=True, text=True, check=False) for line in checks]
    return "".join(done.stdout + done.stderr for done in found if done.returncode != 0)


def test_our_workflows_have_no_faults(folder):
    assert lint(folder) == ""


@pytest.mark.parametrize(
    ("file", "right", "wrong", "found"),
    [
        ("workflows/main.yml", "timeout-minutes: 45", "timeout-minutes: soon", "$.jobs.image"),
        ("workflows/main.yml", "queue: max", "queue: most", "$.jobs.deploy"),
        ("dependabot.yml", "interval: weekly", "interval: hourly", "$.updates[0].schedule"),
    ],
)
def test_what_github_would_not_read_is_found(folder, file, right, wrong, found):
    path = folder / ".github" / file
    text = path.read_text()
    assert right in text
    path.write_text(text.replace(right, wrong))
    assert found in lint(folder)


def test_what_an_attacker_could_use_is_found(folder):
    (folder / ".github/workflows/bad.yml").write_text(BAD)
    found = lint(folder)
    assert "error[dangerous-triggers]" in found
    assert "error[template-injection]" in found


def test_actionlint_is_pinned_by_commit_and_by_checksum_and_is_the_same_in_both_places():
    repositories = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    (hook,) = [one for one in repositories if "actionlint" in one["repo"]]
    assert hook["repo"] == "https://github.com/rhysd/actionlint"
    assert re.fullmatch("[0-9a-f]{40}", hook["rev"])
    job = yaml.safe_load((ROOT / ".github/workflows/pull-request.yml").read_text())["jobs"]["workflows"]
    assert re.fullmatch("[0-9a-f]{64}", job["env"]["SHA256"])
    assert f"rev: {hook['rev']} # v{job['env']['ACTIONLINT']};" in (ROOT / ".pre-commit-config.yaml").read_text()
    script = job["steps"][-1]["run"]
    assert script.index("sha256sum --check") < script.index("./actionlint")


def test_the_one_message_of_actionlint_that_is_muted_is_about_a_key_that_the_workflows_use():
    (settings,) = yaml.safe_load((ROOT / ".github/actionlint.yaml").read_text())["paths"].values()
    (muted,) = settings["ignore"]
    assert re.search(muted, 'unexpected key "queue" for "concurrency" section. expected one of "cancel-in-progress", "group"')
    assert not re.search(muted, 'unexpected key "queues" for "concurrency" section')
    assert any("queue: max" in path.read_text() for path in Path(ROOT / ".github/workflows").glob("*.yml"))
