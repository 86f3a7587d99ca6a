"""The CloudFormation stacks of a deployment: their order, their templates, and where each parameter's value comes from.

A deployment is a file scripts/ecs/deployments/NAME.yaml: its region, its model, and the parameters that differ from the
templates' defaults. Its stacks are NAME-network, NAME-storage and so on. Parameters and outputs share their names: an output
of one stack is the value of the parameter of that name in every later stack.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from scripts.errors import SeeFoodError

TEMPLATE_FOLDER = Path(__file__).resolve().parent / "templates"
DEPLOYMENTS = Path(__file__).resolve().parent / "deployments"
# No stack needs a later one. The registry and the bucket come early, so that a service starts with an image and a model.
ORDER = ("network", "storage", "identity", "cluster", "observability", "service")


class DeploymentError(SeeFoodError, ValueError):
    """A deployment's file or parameters are invalid. The message names the value and what was expected."""


class _Loader(yaml.SafeLoader):
    """YAML in which !Ref x is read as {"Ref": "x"}, as in CloudFormation's JSON."""


def _tagged(loader: _Loader, tag: str, node: yaml.Node) -> dict[str, Any]:
    # these two have no Fn:: in their long form
    name = tag if tag in ("Ref", "Condition") else f"Fn::{tag}"
    if isinstance(node, yaml.ScalarNode):
        value: Any = loader.construct_scalar(node)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        assert isinstance(node, yaml.MappingNode)
        value = loader.construct_mapping(node, deep=True)
    if tag == "GetAtt" and isinstance(value, str):
        # the short form is Resource.Attribute; an attribute may contain dots itself
        value = value.split(".", 1)
    return {name: value}


_Loader.add_multi_constructor("!", _tagged)
# dates stay text, or AWSTemplateFormatVersion would become a date
_Loader.add_constructor("tag:yaml.org,2002:timestamp", lambda loader, node: str(node.value))


def read_template(kind: str, folder: Path = TEMPLATE_FOLDER) -> dict[str, Any]:
    """A template with its short forms written out. DeploymentError if it is not valid YAML."""
    path = folder / f"{kind}.yaml"
    return parse_template(path.read_text(encoding="utf-8"), path.name)


def read_templates(folder: Path = TEMPLATE_FOLDER) -> dict[str, dict[str, Any]]:
    """Each template in the folder by its kind, in the order of the stacks."""
    return {kind: read_template(kind, folder) for kind in ORDER}


def parse_template(text: str, name: str) -> dict[str, Any]:
    """The same of a template's text. DeploymentError, with its name, if it is not valid YAML."""
    try:
        return dict(yaml.load(text, Loader=_Loader))
    except (yaml.YAMLError, TypeError, ValueError) as error:
        raise DeploymentError(f"{name} is not a valid template: {error}") from error


# Docker's names of the values of the parameter Architecture; TORCH of `make image` for those of Gpu
PLATFORMS = {"X86_64": "linux/amd64", "ARM64": "linux/arm64"}
TORCH = {"no": "cpu", "yes": "cu130"}


class Build(NamedTuple):
    """How a deployment's image is built: TORCH and PLATFORM of `make image`."""

    torch: str
    architecture: str

    @property
    def platform(self) -> str:
        """Docker's name of the architecture."""
        return PLATFORMS[self.architecture]


class Deployment(NamedTuple):
    """A deployment's file. `parameters` are texts, as CloudFormation takes them; `model` is what its first release serves."""

    name: str
    region: str
    parameters: dict[str, str]
    model: str | None = None
    torch: str | None = None

    @property
    def build(self) -> Build:
        """How its image is built: for its instances, whatever machine builds it. DeploymentError for unknown parameters."""
        given = {key: self.parameters.get(key, default) for key, default in (("Architecture", "X86_64"), ("Gpu", "no"))}
        for key, known in (("Architecture", PLATFORMS), ("Gpu", TORCH)):
            if given[key] not in known:
                raise DeploymentError(f"{key} is {given[key]!r}, expected one of {', '.join(known)}")
        return Build(self.torch or TORCH[given["Gpu"]], given["Architecture"])

    @classmethod
    def load(cls, name: str, folder: Path = DEPLOYMENTS) -> "Deployment":
        """Read deployments/NAME.yaml. DeploymentError."""
        path = folder / f"{name}.yaml"
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            deployments = sorted(found.stem for found in folder.glob("*.yaml"))
            raise DeploymentError(f"there is no deployment {name!r}, expected one of {deployments} ({path})") from None
        except yaml.YAMLError as error:
            raise DeploymentError(f"{path} is not valid YAML: {error}") from error
        keys = {"region", "model", "torch", "parameters"}
        if not isinstance(content, dict) or not {"region", "parameters"} <= set(content) <= keys:
            raise DeploymentError(f"{path} must have the keys region and parameters, and may have model and torch")
        if not isinstance(content["parameters"], dict):
            raise DeploymentError(f"{path}: parameters is {content['parameters']!r}, expected a mapping")
        model = content.get("model")
        if not isinstance(model, str | None) or model == "":
            raise DeploymentError(f"{path}: model is {model!r}, expected the name of a model")
        torch = content.get("torch")
        if torch is not None and not re.fullmatch(r"cpu|none|cu\d+", str(torch)):
            raise DeploymentError(f"{path}: torch is {torch!r}, expected cpu, none or a version of CUDA such as cu130")
        # CloudFormation only knows a template's own parameters, so a misspelt one would silently leave the default
        known = {parameter for kind in ORDER for parameter in read_template(kind).get("Parameters", {})}
        parameters = {}
        for key, value in content["parameters"].items():
            if key not in known:
                raise DeploymentError(f"{path}: no template has a parameter {key!r}, expected one of {sorted(known)}")
            if not isinstance(value, str | int | float) or isinstance(value, bool):
                raise DeploymentError(f"{path}: {key} is {value!r}, expected text or a number")
            parameters[key] = str(value)
        return cls(name, str(content["region"]), parameters, model, torch)

    def stack(self, kind: str) -> str:
        """The name of one of its stacks."""
        return f"{self.name}-{kind}"

    def values(self, template: Mapping[str, Any], outputs: Mapping[str, str]) -> dict[str, str]:
        """Each parameter's value for this template: from earlier stacks, this deployment or the default, in that order.

        DeploymentError names every parameter that has none.
        """
        values, missing = {}, []
        for parameter, declared in template.get("Parameters", {}).items():
            # outputs come last and win: what exists counts, not what a file once said
            given = {"Name": self.name, **self.parameters, **outputs}.get(parameter, declared.get("Default"))
            if given is None:
                missing.append(f"{parameter} ({declared['Description']})")
            else:
                values[parameter] = str(given)
        if missing:
            raise DeploymentError(f"deployments/{self.name}.yaml lacks {'; '.join(missing)}")
        return values
