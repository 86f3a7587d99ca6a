import re
import shlex
import subprocess

import pytest

from tests.conftest import ROOT
from tests.project.pages import PAGES, shell_lines

NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_the_first_page_is_for_a_first_visit():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 160


@pytest.mark.parametrize("name", NAMES)
def test_every_link_of_a_page_leads_somewhere(name):
    page = ROOT / name
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("name", NAMES)
def test_every_make_target_that_a_page_names_exists(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    named = re.findall(r"`make ([a-z][a-z-]*)", text) + [
        shlex.split(line)[1] for line in shell_lines(ROOT / name) if line.startswith("make ")
    ]
    assert set(named) <= TARGETS


@pytest.mark.parametrize("name", NAMES)
def test_make_takes_every_command_of_a_page(name):
    for line in shell_lines(ROOT / name):
        if line.startswith("make "):
            command = ["make", "--dry-run", "--no-print-directory", *shlex.split(line)[1:]]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{line}: {done.stderr}"


@pytest.mark.parametrize("name", NAMES)
def test_every_file_that_a_page_names_exists(name):
    page = ROOT / name
    text = page.read_text(encoding="utf-8")
    for path in re.findall(r"`((?:handler|training|scripts|tests|model_store/starter)/[\w./-]+\.\w+)", text):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("page", ["README.md", "ARCHITECTURE.md"])
def test_every_folder_of_the_layout_exists(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    folders = re.findall(r"^\s*\|? ?\[?(\w[\w/]*/)\]?[\s(|]", text, re.MULTILINE)
    assert len(folders) >= 10
    for folder in folders:
        assert any((base / folder).is_dir() for base in (ROOT, ROOT / "training", ROOT / "scripts")), folder


def test_every_question_of_a_newcomer_is_answered_in_the_file_that_is_named():
    table = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8").split("## First file to open")[1]
    rows = re.findall(r"^\| (?!question|---)(.+?) \| `(.+?)` \| `(.+?)` \|$", table, re.MULTILINE)
    assert len(rows) >= 12
    for question, path, answer in rows:
        assert answer in (ROOT / path).read_text(encoding="utf-8"), f"{question}: {path} does not say {answer!r}"
