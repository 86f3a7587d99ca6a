"""Check a deployment before AWS does: `python -m scripts.ecs.preflight.preflight seefood`. Exit status 1 if a check fails.

cfn-lint   the templates against CloudFormation's schemas
checkov    the templates against its list of security risks; it gets its own environment, .venv-checkov, on the first run
rules      scripts/ecs/preflight/rules: what keeps an ECS service from stabilising, over all stacks with this deployment's
           parameters, and again with optional parts switched on, such as a GPU
account    scripts/ecs/preflight/account.py, where there are credentials: quotas, image, certificate and so on
"""

import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from scripts.command import parser, run
from scripts.ecs.aws import Aws, AwsError
from scripts.ecs.preflight.account import check_all
from scripts.ecs.preflight.judge import RULES, Broken, broken, name_of
from scripts.ecs.preflight.linters import run_cfn_lint, run_checkov
from scripts.ecs.preflight.resolve.templates import Stacks, resolve
from scripts.ecs.preflight.result import FAILED, OK, SKIPPED, Result
from scripts.ecs.stacks import TEMPLATE_FOLDER, Deployment, read_templates
from scripts.phrases import counted

# Optional parts are checked even where this deployment leaves them off: they must work on the day they are switched on.
VARIANTS: dict[str, dict[str, str]] = {
    "GitHub": {"GitHubSubject": "repo:ORGANISATION/REPOSITORY:environment:production", "AlarmEmail": "somebody@example.com"},
    # tasks cannot share a GPU, so one task takes the whole instance
    "GPU": {"Gpu": "yes", "InstanceType": "g5.xlarge", "TaskCpu": "4096", "TaskMemory": "12288", "DiskGiB": "100"},
    "Graviton": {
        "InstanceType": "c7g.large",
        "Architecture": "ARM64",
        "AmiParameter": "/aws/service/ecs/optimized-ami/amazon-linux-2023/arm64/recommended/image_id",
    },
    "captured photos": {"CaptureShare": "0.01"},
    "a NAT gateway in each zone": {"NatGateways": "each-zone"},
    "existing network": {
        "ExistingVpcId": "vpc-0123456789abcdef0",
        "ExistingPublicSubnets": "subnet-0123456789abcdef0,subnet-0123456789abcdef1",
        "ExistingPrivateSubnets": "subnet-0123456789abcdef2,subnet-0123456789abcdef3",
    },
}


def check_rules(deployment: Deployment, templates: Mapping[str, Mapping[str, Any]]) -> tuple[Stacks, dict[Broken, str]]:
    """The deployment's stacks, and each broken rule with the variant that breaks it, "" for the deployment itself."""
    stacks = resolve(deployment, templates)
    found = dict.fromkeys(broken(stacks), "")
    for variant, parameters in VARIANTS.items():
        for one in broken(resolve(Deployment(deployment.name, deployment.region, parameters), templates)):
            # a fault of the deployment itself shows up in every variant, too: report it once
            found.setdefault(one, variant)
    return stacks, found


def rule_results(deployment: Deployment, folder: Path) -> list[Result]:
    """The rows of our own rules."""
    stacks, found = check_rules(deployment, read_templates(folder))
    advice = {name_of(rule): inspect.getdoc(rule) for rule in RULES}
    results = []
    for (rule, finding), variant in found.items():
        where = f"{finding.where} with {variant}" if variant else finding.where
        message = f"{where}: {finding.found}, expected {finding.expected}\n{advice[rule]}"
        results.append(Result(f"rule {rule}", FAILED, message))
    for name in dict.fromkeys(stacks.placeholders):
        results.append(Result("rules", SKIPPED, f"{name} is not set: checked with a placeholder"))
    variants = f"{len(VARIANTS)} variants: {', '.join(VARIANTS)}"
    message = f"{counted(len(RULES), 'rule')} over {counted(len(stacks.resources), 'resource')}, and over {variants}"
    return results if found else [Result("rules", OK, message), *results]


def account_results(deployment: Deployment, folder: Path) -> list[Result]:
    """The rows of the account's checks; a single one where there are no credentials."""
    try:
        aws = Aws(deployment.region)
        account = str(aws.call("sts", "get_caller_identity")["Account"])
    except AwsError as error:
        # a pull request has no credentials: all that needs none is still checked
        return [Result("account", SKIPPED if error.bad_credentials else FAILED, str(error).splitlines()[0])]
    stacks = resolve(deployment, read_templates(folder), account)
    return [result._replace(check=f"account {result.check}") for result in check_all(aws, stacks)]


def show(results: list[Result]) -> None:
    """Print a table. Failed checks come last, where they are still on the screen."""
    width = max(len(result.check) for result in results)
    order = (OK, SKIPPED, FAILED)
    for result in sorted(results, key=lambda one: order.index(one.state)):
        message = result.message.replace("\n", "\n" + " " * (width + 11))
        print(f"{result.check.ljust(width)}  {result.state.ljust(7)}  {message}")
    failed = sum(result.state == FAILED for result in results)
    if failed:
        print(f"{counted(failed, 'check')} failed: fix {'them' if failed > 1 else 'it'} before deploying")
    else:
        print("all checks passed: ready to deploy")


def main(arguments: list[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    arguments_of = parser(__doc__)
    arguments_of.add_argument("name", nargs="?", help="the name of a file in scripts/ecs/deployments")
    arguments_of.add_argument("--image", help="the image's full name, instead of the deployment's Image")
    arguments_of.add_argument("--templates", type=Path, default=TEMPLATE_FOLDER, help="the folder of the templates")
    arguments_of.add_argument(
        "--only", choices=("cfn-lint", "checkov", "rules", "account"), action="append", help="run this part only; may be repeated"
    )
    arguments_of.add_argument("--list", action="store_true", help="print each rule and what it prevents")
    args = arguments_of.parse_args(arguments)
    if args.list:
        print("\n".join(f"{name_of(rule)}: {inspect.getdoc(rule)}" for rule in RULES))
        return 0
    if args.name is None:
        arguments_of.error("name is required: a file in scripts/ecs/deployments")
    deployment = Deployment.load(args.name)
    if args.image:
        deployment = deployment._replace(parameters={**deployment.parameters, "Image": args.image})
    # lazily, as checkov installs itself and the account needs a network
    parts: dict[str, Callable[[], list[Result]]] = {
        "cfn-lint": lambda: run_cfn_lint(deployment, args.templates),
        "checkov": lambda: run_checkov(args.templates),
        "rules": lambda: rule_results(deployment, args.templates),
        "account": lambda: account_results(deployment, args.templates),
    }
    results = [result for name, part in parts.items() if name in (args.only or parts) for result in part()]
    show(results)
    return 1 if any(result.state == FAILED for result in results) else 0


if __name__ == "__main__":
    sys.exit(run(main))
