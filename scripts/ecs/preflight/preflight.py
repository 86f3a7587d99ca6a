"""Check the templates before AWS does, and harder: `python -m scripts.ecs.preflight.preflight seefood`.

Exit status 1 if anything is wrong.

cfn-lint   the templates against the schemas of CloudFormation
checkov    against its list of risks; in an environment of its own, .venv-checkov, which the first run makes
rules      scripts/ecs/rules_*.py: what makes a service fail to stabilise, over all stacks with this deployment's parameters,
           and again with parameters that switch on what it leaves off, such as a GPU
account    scripts/ecs/preflight/account.py, where there are credentials: quotas, image, certificate and so on
"""

import argparse
import inspect
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from scripts.ecs.aws import Aws, AwsError
from scripts.ecs.preflight.account import FAILED, OK, SKIPPED, check_all
from scripts.ecs.preflight.resolve.templates import Stacks, resolve
from scripts.ecs.preflight.rules.rules import RULES, Broken, broken, name_of
from scripts.ecs.stacks import ORDER, TEMPLATE_FOLDER, Deployment, DeploymentError, read_template
from scripts.install import index_of_pip
from scripts.paths import ROOT

CHECKOV, CHECKOV_VENV = "checkov==3.3.30", ROOT / ".venv-checkov"
# what a deployment may leave off is checked, too: whoever switches it on should find it whole
VARIANTS: dict[str, dict[str, str]] = {
    "GitHub": {"GitHubSubject": "repo:ORGANISATION/REPOSITORY:environment:production", "AlarmEmail": "somebody@example.com"},
    "GPU": {"Gpu": "yes", "InstanceType": "g5.xlarge", "TaskCpu": "4096", "TaskMemory": "12288", "DiskGiB": "100"},
    "Graviton": {
        "InstanceType": "c7g.large",
        "Architecture": "ARM64",
        "AmiParameter": "/aws/service/ecs/optimized-ami/amazon-linux-2023/arm64/recommended/image_id",
    },
    "existing network": {
        "ExistingVpcId": "vpc-0123456789abcdef0",
        "ExistingPublicSubnets": "subnet-0123456789abcdef0,subnet-0123456789abcdef1",
        "ExistingPrivateSubnets": "subnet-0123456789abcdef2,subnet-0123456789abcdef3",
    },
}


class Line(NamedTuple):
    """A row of the results."""

    part: str
    state: str
    words: str


def run_cfn_lint(deployment: Deployment, folder: Path) -> list[Line]:
    """What cfn-lint says of the templates; warnings count."""
    program = Path(sys.executable).with_name("cfn-lint")
    if not program.exists():
        return [Line("cfn-lint", FAILED, f"{program} is missing: make setup, or uv pip install cfn-lint")]
    files = [str(folder / f"{kind}.yaml") for kind in ORDER]
    done = _run([str(program), "--format", "json", "--regions", deployment.region, "--", *files])
    try:
        found = json.loads(done.stdout or "[]")
    except ValueError:
        return [Line("cfn-lint", FAILED, (done.stdout + done.stderr).strip()[-500:])]
    lines = [
        Line(
            "cfn-lint",
            FAILED,
            f"{Path(one['Filename']).name}:{one['Location']['Start']['LineNumber']} {one['Rule']['Id']} {one['Message']}",
        )
        for one in found
    ]
    if not lines and done.returncode != 0:
        return [Line("cfn-lint", FAILED, (done.stdout + done.stderr).strip()[-500:] or f"it ended with {done.returncode}")]
    return lines or [Line("cfn-lint", OK, f"{len(files)} templates")]


def run_checkov(folder: Path) -> list[Line]:
    """What checkov says of the templates. Skipped where its environment cannot be made, as without a network."""
    why = make_checkov_venv()
    if why:
        return [Line("checkov", SKIPPED, why)]
    program = CHECKOV_VENV / "bin" / "checkov"
    done = _run(
        [
            str(program),
            "--config-file",
            str(Path(__file__).with_name("checkov.yaml")),
            "--directory",
            str(folder),
            "--output",
            "json",
        ]
    )
    try:
        found = json.loads(done.stdout)
    except ValueError:
        return [Line("checkov", FAILED, (done.stdout + done.stderr).strip()[-500:])]
    return checkov_lines(found if isinstance(found, dict) else found[0])


def checkov_lines(found: Mapping[str, Any]) -> list[Line]:
    """Rows for checkov's own report."""
    lines = [
        Line("checkov", FAILED, f"{Path(one['file_path']).name} {one['resource']} {one['check_id']} {one['check_name']}")
        for one in found.get("results", {}).get("failed_checks", [])
    ]
    summary = found.get("summary", found)
    if summary.get("parsing_errors"):
        lines.append(Line("checkov", FAILED, f"{summary['parsing_errors']} templates cannot be read"))
    if not lines and not summary.get("passed"):
        lines.append(Line("checkov", FAILED, "it found nothing to check: look at scripts/ecs/preflight/checkov.yaml"))
    words = f"{summary.get('passed')} checks passed, {summary.get('skipped')} left out with a reason in the templates"
    return lines or [Line("checkov", OK, words)]


def make_checkov_venv() -> str:
    """Why checkov cannot be run, "" if it can: it pins an old botocore, so it gets an environment beside ours, by uv."""
    done_mark = CHECKOV_VENV / f"installed-{CHECKOV}"
    if done_mark.exists():
        return ""
    beside = Path(sys.executable).with_name("uv")
    uv = str(beside) if beside.exists() else shutil.which("uv")
    if uv is None:
        return "uv, which would install it, is missing: make setup"
    print(f"checkov is installed into {CHECKOV_VENV.name}, once ...", file=sys.stderr, flush=True)
    python = str(CHECKOV_VENV / "bin" / "python")
    for command in (
        [uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(CHECKOV_VENV)],
        [uv, "pip", "install", "--quiet", "--python", python, CHECKOV],
    ):
        done = _run(command, {**index_of_pip(Path(sys.executable)), **os.environ})
        if done.returncode != 0:
            return f"it could not be installed: {(done.stderr or done.stdout).strip().rpartition(chr(10))[2]}"
    done_mark.touch()
    return ""


def _run(command: list[str], environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def templates_in(folder: Path) -> dict[str, dict[str, Any]]:
    """Each template of a folder by its kind. DeploymentError."""
    return {kind: read_template(kind, folder) for kind in ORDER}


def check_rules(deployment: Deployment, templates: Mapping[str, Mapping[str, Any]]) -> tuple[Stacks, dict[Broken, str]]:
    """The deployment's stacks, and each broken rule with the variant that it is broken in, "" for the deployment itself."""
    stacks = resolve(deployment, templates)
    found = dict.fromkeys(broken(stacks), "")
    for variant, parameters in VARIANTS.items():
        for one in broken(resolve(Deployment(deployment.name, deployment.region, parameters), templates)):
            found.setdefault(one, variant)
    return stacks, found


def rule_lines(deployment: Deployment, folder: Path) -> list[Line]:
    """Rows for our own rules."""
    stacks, found = check_rules(deployment, templates_in(folder))
    advice = {name_of(rule): inspect.getdoc(rule) for rule in RULES}
    lines = []
    for (rule, finding), variant in found.items():
        where = f"{finding.where} with {variant}" if variant else finding.where
        lines.append(Line(f"rule {rule}", FAILED, f"{where}: {finding.found}, expected {finding.expected}\n{advice[rule]}"))
    words = f"{len(RULES)} rules over {len(stacks.resources)} resources, and {len(VARIANTS)} variants: {', '.join(VARIANTS)}"
    lines += [Line("rules", SKIPPED, f"{name} is not set: a stand-in was checked") for name in dict.fromkeys(stacks.stood_in)]
    return lines if found else [Line("rules", OK, words), *lines]


def account_lines(deployment: Deployment, folder: Path) -> list[Line]:
    """Rows for what the account says; one row where there are no credentials."""
    try:
        aws = Aws(deployment.region)
        account = str(aws.call("sts", "get_caller_identity")["Account"])
    except AwsError as error:
        return [Line("account", SKIPPED if error.hopeless else FAILED, str(error).splitlines()[0])]
    stacks = resolve(deployment, templates_in(folder), account)
    return [Line(f"account {result.check}", result.state, result.words) for result in check_all(aws, stacks)]


def show(lines: list[Line]) -> None:
    """Print a table: what failed last, where it is seen."""
    width = max(len(line.part) for line in lines)
    order = (OK, SKIPPED, FAILED)
    for line in sorted(lines, key=lambda one: order.index(one.state)):
        words = line.words.replace("\n", "\n" + " " * (width + 11))
        print(f"{line.part.ljust(width)}  {line.state.ljust(7)}  {words}")
    failed = sum(line.state == FAILED for line in lines)
    print(f"{failed} to correct before a deploy" if failed else "nothing speaks against a deploy")


def main(arguments: list[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="?", default="seefood", help="the name of a file in scripts/ecs/deployments")
    parser.add_argument("--image", help="the image in full, instead of the deployment's Image")
    parser.add_argument("--templates", type=Path, default=TEMPLATE_FOLDER, help="the folder with the templates")
    parser.add_argument("--only", choices=("cfn-lint", "checkov", "rules", "account"), action="append", help="this part alone")
    parser.add_argument("--list", action="store_true", help="print the rules, and what each prevents")
    args = parser.parse_args(arguments)
    if args.list:
        print("\n".join(f"{name_of(rule)}: {inspect.getdoc(rule)}" for rule in RULES))
        return 0
    try:
        deployment = Deployment.load(args.name)
        if args.image:
            deployment = deployment._replace(parameters={**deployment.parameters, "Image": args.image})
        parts: dict[str, Callable[[], list[Line]]] = {
            "cfn-lint": lambda: run_cfn_lint(deployment, args.templates),
            "checkov": lambda: run_checkov(args.templates),
            "rules": lambda: rule_lines(deployment, args.templates),
            "account": lambda: account_lines(deployment, args.templates),
        }
        lines = [line for name, part in parts.items() if name in (args.only or parts) for line in part()]
    except DeploymentError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    show(lines)
    return 1 if any(line.state == FAILED for line in lines) else 0


if __name__ == "__main__":
    sys.exit(main())
