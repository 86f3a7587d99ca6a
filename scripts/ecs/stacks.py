"""The CloudFormation stacks of a deployment: their order, their templates, and where each parameter's value comes from.

A deployment is a file scripts/ecs/deployments/NAME.yaml: its region, and what differs from the templates' defaults. Its
stacks are NAME-network, NAME-storage, ... A parameter has the same name in every template, and so has an output: what an
earlier stack puts out is the parameter of that name in a later one.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

TEMPLATE_FOLDER = Path(__file__).resolve().parent / "templates"
DEPLOYMENTS = Path(__file__).resolve().parent / "deployments"
# each needs nothing of those after it; the registry exists long before a service wants an image of it
ORDER = ("network", "storage", "identity", "cluster", "observability", "service")


class DeploymentError(ValueError):
    """A deployment's file or its parameters cannot be used; the message names the value and what was expected."""


class _Loader(yaml.SafeLoader):
    """YAML in which !Ref x is {"Ref": "x"}, as in CloudFormation's JSON."""


def _tagged(loader: _Loader, tag: str, node: yaml.Node) -> dict[str, Any]:
    name = tag if tag in ("Ref", "Condition") else f"Fn::{tag}"
    if isinstance(node, yaml.ScalarNode):
        value: Any = loader.construct_scalar(node)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        assert isinstance(node, yaml.MappingNode)
        value = loader.construct_mapping(node, deep=True)
    if tag == "GetAtt" and isinstance(value, str):
        value = value.split(".", 1)
    return {name: value}


_Loader.add_multi_constructor("!", _tagged)
# dates as they are written: AWSTemplateFormatVersion is a text
_Loader.add_constructor("tag:yaml.org,2002:timestamp", lambda loader, node: str(node.value))


def read_template(kind: str, folder: Path = TEMPLATE_FOLDER) -> dict[str, Any]:
    """A template, its short forms written out. DeploymentError if it is no YAML."""
    path = folder / f"{kind}.yaml"
    try:
        return dict(yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader))
    except (yaml.YAMLError, TypeError, ValueError) as error:
        raise DeploymentError(f"{path.name} is no template: {error}") from error


class Deployment(NamedTuple):
    """What a person has decided: `parameters` are texts, as CloudFormation takes them."""

    name: str
    region: str
    parameters: dict[str, str]

    @classmethod
    def load(cls, name: str, folder: Path = DEPLOYMENTS) -> "Deployment":
        """DeploymentError naming what is wrong with its file."""
        path = folder / f"{name}.yaml"
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            there = sorted(found.stem for found in folder.glob("*.yaml"))
            raise DeploymentError(f"there is no deployment {name!r}, expected one of {there} ({path})") from None
        except yaml.YAMLError as error:
            raise DeploymentError(f"{path} is no YAML: {error}") from error
        if not isinstance(content, dict) or set(content) != {"region", "parameters"} or not isinstance(content["parameters"], dict):
            raise DeploymentError(f"{path} must have two keys, region and parameters")
        known = {parameter for kind in ORDER for parameter in read_template(kind).get("Parameters", {})}
        parameters = {}
        for key, value in content["parameters"].items():
            if key not in known:
                raise DeploymentError(f"{path}: no template has a parameter {key!r}, expected one of {sorted(known)}")
            if not isinstance(value, str | int | float) or isinstance(value, bool):
                raise DeploymentError(f"{path}: {key} is {value!r}, expected a text or a number")
            parameters[key] = str(value)
        return cls(name, str(content["region"]), parameters)

    def stack(self, kind: str) -> str:
        """The name of one of its stacks."""
        return f"{self.name}-{kind}"

    def values(self, template: Mapping[str, Any], outputs: Mapping[str, str]) -> dict[str, str]:
        """Each parameter's value for this template: from earlier stacks, this deployment or the default, in that order.

        DeploymentError naming each one that has none.
        """
        values, missing = {}, []
        for parameter, about in template.get("Parameters", {}).items():
            given = {"Name": self.name, **self.parameters, **outputs}.get(parameter, about.get("Default"))
            if given is None:
                missing.append(f"{parameter} ({about['Description']})")
            else:
                values[parameter] = str(given)
        if missing:
            raise DeploymentError(f"deployments/{self.name}.yaml lacks {'; '.join(missing)}")
        return values
