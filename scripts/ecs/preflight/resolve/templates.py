"""All stacks of a deployment as they would be created: each resource with its properties, every parameter and function resolved.

Outputs of earlier stacks become parameters of later ones, so a value can be followed across stacks. naming.py says what a
resource that does not exist yet is called. Nothing here calls AWS; the account is made up unless it is given.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from scripts.ecs.preflight.resolve.intrinsics import Resolver
from scripts.ecs.preflight.resolve.naming import identifiers, symbol
from scripts.ecs.stacks import Deployment

ACCOUNT = "111122223333"
# for parameters without a default that are not set yet: a person or a deploy sets them
PLACEHOLDERS = {
    "Image": "{account}.dkr.ecr.{region}.amazonaws.com/{name}:placeholder",
    "CertificateArn": "arn:aws:acm:{region}:{account}:certificate/00000000-0000-0000-0000-000000000000",
}


@dataclass(frozen=True)
class Resource:
    """A resource that will be created. `needs` are the logical ids of its stack that are created before it."""

    stack: str
    name: str
    type: str
    properties: Mapping[str, Any]
    attributes: Mapping[str, Any] = field(default_factory=dict)  # DeletionPolicy and UpdateReplacePolicy
    needs: frozenset[str] = frozenset()
    identifiers: Mapping[str, str] = field(default_factory=dict)

    def get(self, *path: str | int) -> Any:
        """The property at this path, None if it is missing or empty text."""
        found: Any = self.properties
        for step in path:
            if isinstance(step, int):
                found = found[step] if isinstance(found, list) and step < len(found) else None
            else:
                found = found.get(step) if isinstance(found, Mapping) else None
        return None if found == "" else found

    def list(self, *path: str | int) -> list[Any]:
        """The list at this path: empty if it is missing; a single value becomes a list of one."""
        found = self.get(*path)
        return [] if found is None else found if isinstance(found, list) else [found]

    def __str__(self) -> str:
        return f"{self.stack}.{self.name}"


@dataclass
class Stacks:
    """The resources and outputs of all stacks. `problems` are (stack, message); `placeholders` are parameters not set yet."""

    deployment: Deployment
    pseudo: Mapping[str, str]
    resources: list[Resource] = field(default_factory=list)
    parameters: dict[str, dict[str, str]] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)
    problems: list[tuple[str, str]] = field(default_factory=list)
    placeholders: list[str] = field(default_factory=list)

    def of(self, *types: str) -> list[Resource]:
        """All resources of these types, in the order of the templates. The prefix "AWS::" is optional."""
        wanted = {f"AWS::{one.removeprefix('AWS::')}" for one in types}
        return [resource for resource in self.resources if resource.type in wanted]

    def find(self, value: object, type_: str, *identifiers: str) -> Resource | None:
        """The resource of this type with this value as one of these identifiers (default: any of them)."""
        for resource in self.of(type_):
            for identifier, own in resource.identifiers.items():
                if own == value and (not identifiers or identifier in identifiers):
                    return resource
        return None

    def before(self, resource: Resource) -> set[str]:
        """The logical ids of its stack that CloudFormation creates before a resource, directly or indirectly."""
        by_name = {other.name: other for other in self.resources if other.stack == resource.stack}
        found: set[str] = set()
        left = set(resource.needs)
        while left:
            name = left.pop()
            if name in by_name and name not in found:
                found.add(name)
                left |= by_name[name].needs
        return found


def resolve(deployment: Deployment, templates: Mapping[str, Mapping[str, Any]], account: str = ACCOUNT) -> Stacks:
    """The stacks that these templates create with a deployment's parameters. Never raises: see `problems`."""
    region = deployment.region
    # China and GovCloud have their own ARNs
    partition = "aws-cn" if region.startswith("cn-") else "aws-us-gov" if region.startswith("us-gov-") else "aws"
    pseudo = {
        "AWS::Region": region,
        "AWS::AccountId": account,
        "AWS::Partition": partition,
        "AWS::URLSuffix": "amazonaws.com.cn" if partition == "aws-cn" else "amazonaws.com",
    }
    stacks = Stacks(deployment, pseudo)
    for kind, template in templates.items():
        _add_stack(stacks, kind, template)
    return stacks


def _add_stack(stacks: Stacks, kind: str, template: Mapping[str, Any]) -> None:
    stack = stacks.deployment.stack(kind)
    pseudo = {**stacks.pseudo, "AWS::StackName": stack, "AWS::StackId": symbol(kind, "stack")}
    resolver = Resolver(kind, template, _parameters(stacks, kind, template), pseudo)
    for name, rule in (template.get("Rules") or {}).items():
        stacks.problems += [(kind, f"rule {name}: {text}") for text in resolver.broken_assertions(rule)]
    for name, written in (template.get("Resources") or {}).items():
        if not isinstance(written, Mapping) or ("Condition" in written and not resolver.condition(written["Condition"])):
            continue
        resolver.references = set()
        properties = resolver.value(written.get("Properties") or {})
        depends = written.get("DependsOn") or []
        needs = frozenset(resolver.references | set([depends] if isinstance(depends, str) else depends))
        attributes = {key: resolver.value(value) for key, value in written.items() if key.endswith("Policy")}
        type_ = str(written.get("Type"))
        named = identifiers(kind, type_, name, properties, pseudo)
        stacks.resources.append(Resource(kind, name, type_, properties, attributes, needs, named))
    for name, written in (template.get("Outputs") or {}).items():
        if "Condition" not in written or resolver.condition(written["Condition"]):
            stacks.outputs[name] = str(resolver.value(written.get("Value")))
    stacks.problems += [(kind, problem) for problem in dict.fromkeys(resolver.problems)]


def _parameters(stacks: Stacks, kind: str, template: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a template's parameters, chosen as in Deployment.values. A missing one is noted and becomes a symbol."""
    found: dict[str, Any] = {}
    deployment = stacks.deployment
    given = {"Name": deployment.name, **deployment.parameters, **stacks.outputs}
    for name, declared in (template.get("Parameters") or {}).items():
        value = given.get(name, declared.get("Default"))
        if value is None and name in PLACEHOLDERS:
            value = PLACEHOLDERS[name].format(
                account=stacks.pseudo["AWS::AccountId"], region=deployment.region, name=_repository(stacks) or deployment.name
            )
            stacks.placeholders.append(name)
        if value is None:
            stacks.problems.append((kind, f"parameter {name} has no value: no earlier stack outputs it, and it is not set"))
            value = symbol(kind, name)
        text, type_ = str(value), str(declared.get("Type", "String"))
        stacks.parameters.setdefault(kind, {})[name] = text
        is_list = type_.startswith("List<") or type_ == "CommaDelimitedList"
        values = [one.strip() for one in text.split(",")] if is_list else [text]
        stacks.problems += [(kind, problem) for one in values for problem in _refused(name, one, declared)]
        if type_.startswith("AWS::SSM::Parameter::Value"):
            # CloudFormation reads the SSM parameter itself during the deployment
            values = [f"{{{{resolve:ssm:{text}}}}}"]
        found[name] = values if is_list else values[0]
    return found


def _repository(stacks: Stacks) -> str | None:
    found = stacks.of("ECR::Repository")
    return found[0].identifiers["name"] if found else None


def _refused(name: str, value: str, declared: Mapping[str, Any]) -> Iterator[str]:
    """Why CloudFormation would refuse a parameter's value."""
    # a symbol: only AWS knows the value, so it cannot be checked
    if "«" in value:
        return
    if not value and "AWS::EC2::" in str(declared.get("Type")):
        yield f"parameter {name} is empty, expected ids of {declared['Type']}"
    allowed = declared.get("AllowedValues")
    if allowed is not None and value not in map(_as_written, allowed):
        yield f"parameter {name} is {value!r}, expected one of {', '.join(map(_as_written, allowed))}"
    pattern = declared.get("AllowedPattern")
    if pattern is not None and not re.fullmatch(pattern, value):
        yield f"parameter {name} is {value!r}, expected the pattern {pattern}"
    if len(value) < int(declared.get("MinLength", 0)):
        yield f"parameter {name} is {value!r}, expected at least {declared['MinLength']} characters"
    if declared.get("Type") == "Number":
        try:
            number = float(value)
        except ValueError:
            yield f"parameter {name} is {value!r}, expected a number"
            return
        least, most = float(declared.get("MinValue", "-inf")), float(declared.get("MaxValue", "inf"))
        if not least <= number <= most:
            yield f"parameter {name} is {value}, expected {least:g} to {most:g}"


def _as_written(value: object) -> str:
    # YAML reads yes and true as booleans, CloudFormation compares text
    return str(value).lower() if isinstance(value, bool) else str(value)
