"""What the stacks of a deployment lack: `python -m scripts.ecs.deploy.unapplied NAME`, each template beside what is deployed.

GitHub Actions may change the service's stack alone, so a change of the others' templates or parameters waits until a person
runs `make deploy`. Every difference is printed, in a workflow as a warning on the run's page. Read-only; exit status 0.
"""

import os
import sys
from collections.abc import Mapping
from typing import Any

from scripts.command import parser, run
from scripts.ecs.aws import Aws
from scripts.ecs.stack import find
from scripts.ecs.stacks import ORDER, Deployment, parse_template, read_template

BY_PERSON = tuple(kind for kind in ORDER if kind != "service")


def unapplied(aws: Aws, deployment: Deployment) -> list[str]:
    """Each difference between a stack and its template, as a line. AwsError, DeploymentError."""
    lines, outputs = list[str](), dict[str, str]()
    for kind in BY_PERSON:
        name, template = deployment.stack(kind), read_template(kind)
        stack = find(aws, name)
        if stack is None:
            lines.append(f"{name} does not exist")
            continue
        deployed = aws.call("cloudformation", "get_template", StackName=name, TemplateStage="Original")["TemplateBody"]
        # botocore parses JSON by itself
        before = parse_template(deployed, name) if isinstance(deployed, str) else deployed
        lines += [f"{name}: {line}" for line in template_differences(before, template)]
        wanted = deployment.values(template, outputs)
        lines += [f"{name}: {line}" for line in value_differences(stack.parameters, wanted)]
        outputs |= stack.outputs
    return lines


def template_differences(deployed: Mapping[str, Any], template: Mapping[str, Any]) -> list[str]:
    """What differs between two templates: resources and outputs by name, other sections as a whole."""
    lines = []
    for section in sorted({*deployed, *template} - {"Description", "AWSTemplateFormatVersion", "Parameters"}):
        before, after = deployed.get(section) or {}, template.get(section) or {}
        for name in sorted({*before, *after}):
            if before.get(name) != after.get(name):
                what = "is new" if name not in before else "is gone" if name not in after else "differs"
                lines.append(f"{section.removesuffix('s').lower()} {name} {what}")
    return lines


def value_differences(deployed: Mapping[str, str], wanted: Mapping[str, str]) -> list[str]:
    """The parameters whose values differ."""
    # what an earlier stack puts out may be a list, whose order AWS may change
    return [
        f"{name} is {deployed.get(name, 'not set')!r}, and would be {value!r}"
        for name, value in sorted(wanted.items())
        if sorted(deployed.get(name, "").split(",")) != sorted(value.split(","))
    ]


def main(arguments: list[str] | None = None) -> None:
    """Command line; see the module's docstring."""
    command = parser(__doc__)
    command.add_argument("name", help="the name of a file in scripts/ecs/deployments, without .yaml")
    deployment = Deployment.load(command.parse_args(arguments).name)
    lines = unapplied(Aws(deployment.region), deployment)
    mark = "::warning title=Not applied::" if os.environ.get("GITHUB_ACTIONS") else ""
    for line in lines:
        print(f"{mark}{line}")
    if lines:
        print(f"{mark}make deploy STACK={deployment.name} on a terminal applies {len(lines)} differences of the other stacks")
    else:
        print("all other stacks are as their templates")


if __name__ == "__main__":
    sys.exit(run(main))
