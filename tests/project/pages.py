"""The project's pages: their links, and the commands that they promise."""

import re
from pathlib import Path

from tests.conftest import ROOT

PAGES = sorted(
    path
    for path in ROOT.rglob("*.md")
    if not {"build", "runs", "data", ".venv-checkov"} & {*path.relative_to(ROOT).parts[:1]} and ".venv" not in path.parts
)


def shell_lines(page: Path) -> list[str]:
    """The commands of a page's `sh` blocks, without comments."""
    blocks = re.findall(r"^```sh\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [command for line in lines if (command := re.sub(r"(^|\s)#.*", "", line).strip())]


def console(page: Path) -> list[tuple[str, str]]:
    """(command, shown output) of each command in a page's `console` blocks."""
    blocks = re.findall(r"^```console\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [
        (command, output)
        for block in blocks
        for command, output in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE)
    ]
