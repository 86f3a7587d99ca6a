"""cfn-lint and checkov over a folder of templates, as rows of preflight's table."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from handler.parts import sha256
from scripts.ecs.preflight.result import FAILED, OK, SKIPPED, Result
from scripts.ecs.stacks import ORDER, Deployment
from scripts.install import index_of_pip
from scripts.paths import ROOT

CHECKOV, CHECKOV_VENV = "checkov==3.3.30", ROOT / ".venv-checkov"
# all that it needs, with hashes: uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-annotate
CHECKOV_PINS = Path(__file__).with_name("checkov.txt")
# enough of a traceback to tell what went wrong
OUTPUT_CHARS = 500


def run_cfn_lint(deployment: Deployment, folder: Path) -> list[Result]:
    """cfn-lint's findings; warnings fail, too."""
    program = Path(sys.executable).with_name("cfn-lint")
    if not program.exists():
        return [Result("cfn-lint", FAILED, f"{program} is missing: make setup, or uv pip install cfn-lint")]
    files = [str(folder / f"{kind}.yaml") for kind in ORDER]
    # after --, as --regions would take the files for regions, too
    done = _run([str(program), "--format", "json", "--regions", deployment.region, "--", *files])
    try:
        found = json.loads(done.stdout or "[]")
    except ValueError:
        return [Result("cfn-lint", FAILED, _output(done))]
    results = [
        Result(
            "cfn-lint",
            FAILED,
            f"{Path(one['Filename']).name}:{one['Location']['Start']['LineNumber']} {one['Rule']['Id']} {one['Message']}",
        )
        for one in found
    ]
    if not results and done.returncode != 0:
        return [Result("cfn-lint", FAILED, _output(done) or f"cfn-lint ended with status {done.returncode}")]
    return results or [Result("cfn-lint", OK, f"{len(files)} templates")]


def run_checkov(folder: Path) -> list[Result]:
    """checkov's findings. Skipped where it cannot be installed, e.g. without a network."""
    failure = make_checkov_venv()
    if failure:
        return [Result("checkov", SKIPPED, failure)]
    program, config = CHECKOV_VENV / "bin" / "checkov", Path(__file__).with_name("checkov.yaml")
    done = _run([str(program), "--config-file", str(config), "--directory", str(folder), "--output", "json"])
    try:
        report = json.loads(done.stdout)
    except ValueError:
        return [Result("checkov", FAILED, _output(done))]
    # checkov prints a list where it ran more than one of its frameworks
    return checkov_results(report if isinstance(report, dict) else report[0])


def checkov_results(report: Mapping[str, Any]) -> list[Result]:
    """The rows of checkov's report."""
    results = [
        Result("checkov", FAILED, f"{Path(one['file_path']).name} {one['resource']} {one['check_id']} {one['check_name']}")
        for one in report.get("results", {}).get("failed_checks", [])
    ]
    # without a single template it prints the summary alone
    summary = report.get("summary", report)
    if summary.get("parsing_errors"):
        results.append(Result("checkov", FAILED, f"{summary['parsing_errors']} templates cannot be read"))
    if not results and not summary.get("passed"):
        results.append(Result("checkov", FAILED, "no template was checked: see scripts/ecs/preflight/checkov.yaml"))
    message = f"{summary.get('passed')} checks passed, {summary.get('skipped')} skipped with a reason given in the templates"
    return results or [Result("checkov", OK, message)]


def make_checkov_venv() -> str:
    """Install checkov into its own environment, as it pins an old botocore. Returns why that failed, "" if it did not."""
    done_mark = CHECKOV_VENV / f"installed-{CHECKOV}-{sha256(CHECKOV_PINS)[:12]}"
    if done_mark.exists():
        return ""
    beside = Path(sys.executable).with_name("uv")
    uv = str(beside) if beside.exists() else shutil.which("uv")
    if uv is None:
        return "checkov cannot be installed without uv: make setup"
    print(f"installing checkov into {CHECKOV_VENV.name} (only once) ...", file=sys.stderr, flush=True)
    python = str(CHECKOV_VENV / "bin" / "python")
    for command in (
        [uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(CHECKOV_VENV)],
        [uv, "pip", "install", "--quiet", "--python", python, "--require-hashes", "-c", str(CHECKOV_PINS), CHECKOV],
    ):
        # uv does not read pip's configuration, so it is passed the index
        done = _run(command, {**index_of_pip(Path(sys.executable)), **os.environ})
        if done.returncode != 0:
            return f"checkov could not be installed: {(done.stderr or done.stdout).strip().rpartition(chr(10))[2]}"
    # last, so that an interrupted installation starts over
    done_mark.touch()
    return ""


def _run(command: list[str], environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def _output(done: subprocess.CompletedProcess[str]) -> str:
    return (done.stdout + done.stderr).strip()[-OUTPUT_CHARS:]
