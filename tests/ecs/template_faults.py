"""How a fault is put into the parsed templates; faults_of_*.py list the faults for test_preflight.py.

A place is "stack/Resource/Property/0/...".
"""

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

Templates = dict[str, dict[str, Any]]
Change = Callable[[Templates], None]
GITHUB = "token.actions.githubusercontent.com"
CONTAINER = "service/TaskDefinition/ContainerDefinitions/0"
SERVICE = "service/Service"
LAUNCH = "cluster/LaunchTemplate/LaunchTemplateData"
TARGETS = "service/TargetGroup"
NETWORK = f"{SERVICE}/NetworkConfiguration/AwsvpcConfiguration"
DEPLOYMENT = f"{SERVICE}/DeploymentConfiguration"
SCALING = "cluster/CapacityProvider/AutoScalingGroupProvider"


class Fault(NamedTuple):
    rule: str
    name: str
    changes: tuple[Change, ...]
    parameters: dict[str, str]


def find(templates: Templates, place: str) -> tuple[Any, Any]:
    """What contains a place, and the place's key in it."""
    kind, resource, *steps = place.split("/")
    path = [int(step) if step.isdigit() else step for step in steps]
    at: Any = templates[kind]["Resources"][resource]
    if path[0] not in ("DependsOn", "DeletionPolicy", "UpdateReplacePolicy"):
        at = at.setdefault("Properties", {})
    for step in path[:-1]:
        at = at[step]
    return at, path[-1]


def put(place: str, value: Any) -> Change:
    def change(templates: Templates) -> None:
        at, key = find(templates, place)
        at[key] = copy.deepcopy(value)

    return change


def drop(place: str) -> Change:
    def change(templates: Templates) -> None:
        at, key = find(templates, place)
        del at[key]

    return change


def append(place: str, value: Any) -> Change:
    def change(templates: Templates) -> None:
        at, key = find(templates, place)
        at.setdefault(key, []).append(copy.deepcopy(value)) if isinstance(at, dict) else at[key].append(copy.deepcopy(value))

    return change


def made(kind: str, name: str, type_: str, **properties: Any) -> Change:
    def change(templates: Templates) -> None:
        templates[kind]["Resources"][name] = {"Type": f"AWS::{type_}", "Properties": copy.deepcopy(properties)}

    return change


def gone(kind: str, name: str) -> Change:
    def change(templates: Templates) -> None:
        del templates[kind]["Resources"][name]

    return change


def output(kind: str, name: str, value: Any) -> Change:
    def change(templates: Templates) -> None:
        if value is None:
            del templates[kind]["Outputs"][name]
        else:
            templates[kind]["Outputs"][name]["Value"] = value

    return change


def moved(source: str, name: str, target: str) -> Change:
    def change(templates: Templates) -> None:
        templates[target]["Resources"][name] = templates[source]["Resources"].pop(name)

    return change


def replaced(place: str, old: str, new: str) -> Change:
    """Text replaced, also inside of functions."""

    def change(templates: Templates) -> None:
        at, key = find(templates, place)
        before = at[key]
        at[key] = _replaced(before, old, new)
        assert at[key] != before, f"{place} has no {old}"

    return change


def _replaced(value: Any, old: str, new: str) -> Any:
    if isinstance(value, str):
        return value.replace(old, new)
    if isinstance(value, list):
        return [_replaced(one, old, new) for one in value]
    return {key: _replaced(one, old, new) for key, one in value.items()} if isinstance(value, dict) else value


def not_allowed(kind: str, role: str, action: str) -> Change:
    """An action removed from a role's own policies."""

    def change(templates: Templates) -> None:
        found = False
        for policy in templates[kind]["Resources"][role]["Properties"]["Policies"]:
            for statement in policy["PolicyDocument"]["Statement"]:
                actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
                found |= action in actions
                statement["Action"] = [one for one in actions if one != action] or ["sts:GetCallerIdentity"]
        assert found, f"{role} has no {action}"

    return change


def ref(name: str) -> dict[str, str]:
    return {"Ref": name}


def att(name: str, attribute: str) -> dict[str, list[str]]:
    return {"Fn::GetAtt": [name, attribute]}


def sub(text: str) -> dict[str, str]:
    return {"Fn::Sub": text}


def fault(rule: str, name: str, *changes: Change, **parameters: str) -> Fault:
    return Fault(rule, name, changes, parameters)


def trust(service: str, action: str = "sts:AssumeRole", effect: str = "Allow") -> dict[str, Any]:
    return {"Statement": [{"Effect": effect, "Principal": {"Service": service}, "Action": action}]}


def allow(action: Any, resource: Any = "*", effect: str = "Allow") -> dict[str, Any]:
    return {"PolicyName": "x", "PolicyDocument": {"Statement": [{"Effect": effect, "Action": action, "Resource": resource}]}}


def user_data(text: str) -> dict[str, Any]:
    return {"Fn::Base64": sub(text)}
