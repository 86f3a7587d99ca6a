"""The values of CloudFormation's functions in one template: !Ref, !Sub, !If and so on, without calling AWS.

A reference to a resource becomes a text of naming.py. What cannot be resolved is noted in `problems` and becomes a symbol.
Left out, as no template here needs them: macros, Fn::ForEach, Fn::Transform.
"""

import ipaddress
import itertools
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from scripts.ecs.preflight.resolve.naming import READ_BACK, TYPES, identifiers, symbol

_NOTHING = object()  # AWS::NoValue: the property counts as absent
_VARIABLE = re.compile(r"\$\{(!?)([^}]*)\}")


class Resolver:
    """Resolves the values of one template. `references` collects the logical ids met; the caller empties it for each resource."""

    def __init__(self, kind: str, template: Mapping[str, Any], parameters: Mapping[str, Any], pseudo: Mapping[str, str]) -> None:
        self.kind, self.template, self.parameters, self.pseudo = kind, template, parameters, pseudo
        self.problems: list[str] = []
        self.references: set[str] = set()
        self._conditions: dict[str, bool] = {}
        self._functions: dict[str, Callable[[Any], Any]] = {
            "Ref": self._ref,
            "Fn::GetAtt": self._get_att,
            "Fn::Sub": self._sub,
            "Fn::If": self._if,
            "Fn::Join": lambda value: str(self._text(value[0])).join(map(str, self.value(value[1]))),
            "Fn::Split": lambda value: self._text(value[1]).split(self._text(value[0])),
            "Fn::Select": lambda value: self.value(value[1])[int(self.value(value[0]))],
            "Fn::FindInMap": self._find_in_map,
            "Fn::Cidr": self._cidr,
            # the real zones depend on the account; rules only compare them
            "Fn::GetAZs": lambda value: [f"{self._text(value) or pseudo['AWS::Region']}{letter}" for letter in "abc"],
            "Fn::ImportValue": lambda value: f"«export.{self._text(value)}»",
            # kept, so that a rule can tell encoded text from plain
            "Fn::Base64": lambda value: {"Fn::Base64": self._text(value)},
            "Fn::Length": lambda value: len(self.value(value)),
            "Fn::ToJsonString": lambda value: json.dumps(self.value(value)),
            "Fn::Contains": lambda value: self._text(value[1]) in map(str, self.value(value[0])),
            "Fn::Equals": lambda value: self._text(value[0]) == self._text(value[1]),
            "Fn::Not": lambda value: not self._true(value[0]),
            "Fn::And": lambda value: all(map(self._true, value)),
            "Fn::Or": lambda value: any(map(self._true, value)),
        }

    def value(self, given: Any) -> Any:
        """The resolved value of a part of the template. AWS::NoValue is dropped from lists and mappings."""
        if isinstance(given, list):
            return [one for one in map(self._resolve, given) if one is not _NOTHING]
        found = self._resolve(given)
        return None if found is _NOTHING else found

    def condition(self, name: object) -> bool:
        """Whether a condition of the template holds."""
        if name not in self._conditions:
            if name not in self.template.get("Conditions", {}):
                self.problems.append(f"condition {name!r} is used, but not defined")
                return True
            self._conditions[str(name)] = False  # ends the recursion of a condition that refers to itself
            self._conditions[str(name)] = self._true(self.template["Conditions"][name])
        return self._conditions[str(name)]

    def broken_assertions(self, rule: Mapping[str, Any]) -> list[str]:
        """The assertions of one of the template's own Rules that the parameters break."""
        if "RuleCondition" in rule and not self._true(rule["RuleCondition"]):
            return []
        return [str(one.get("AssertDescription", one["Assert"])) for one in rule["Assertions"] if not self._true(one["Assert"])]

    def _resolve(self, given: Any) -> Any:
        if isinstance(given, list):
            return self.value(given)
        if not isinstance(given, dict):
            return given
        # a function call is a mapping with a single key
        if len(given) == 1:
            (name, argument), *_ = given.items()
            if name in self._functions:
                try:
                    return self._functions[name](argument)
                except (TypeError, ValueError, KeyError, IndexError) as error:
                    self.problems.append(f"{name} of {argument!r} cannot be resolved: {error!r}")
                    return symbol(self.kind, "unknown")
            if str(name).startswith("Fn::"):
                self.problems.append(f"{name} is not supported by preflight")
                return symbol(self.kind, "unknown")
        resolved = {key: self._resolve(value) for key, value in given.items()}
        return {key: value for key, value in resolved.items() if value is not _NOTHING}

    def _text(self, given: Any) -> str:
        found = self.value(given)
        return str(found).lower() if isinstance(found, bool) else str(found)

    def _true(self, given: Any) -> bool:
        if isinstance(given, dict) and set(given) == {"Condition"}:
            return self.condition(given["Condition"])
        found = self.value(given)
        if not isinstance(found, bool):
            raise ValueError(f"{given!r} is not a condition")
        return found

    def _ref(self, name: Any) -> Any:
        if name == "AWS::NoValue":
            return _NOTHING
        if name in self.pseudo:
            return self.pseudo[name]
        if name in self.parameters:
            return self.parameters[name]
        return self._attribute(str(name), "Ref")

    def _get_att(self, argument: Any) -> Any:
        name, attribute = argument.split(".", 1) if isinstance(argument, str) else argument
        return self._attribute(str(name), self._text(attribute))

    def _attribute(self, name: str, attribute: str) -> Any:
        resource = self.template.get("Resources", {}).get(name)
        if resource is None:
            self.problems.append(f"{name} is referenced, but is neither a parameter nor a resource")
            return symbol(self.kind, name, attribute.removeprefix("Ref"))
        if "Condition" in resource and not self.condition(resource["Condition"]):
            self.problems.append(f"{name} is referenced, but not created, as condition {resource['Condition']} does not hold")
        self.references.add(name)
        properties = resource.get("Properties") or {}
        if attribute in READ_BACK and attribute in properties:
            return self.value(properties[attribute])
        naming = TYPES.get(str(resource.get("Type")))
        identifier = naming.attributes.get(attribute) if naming else "id" if attribute == "Ref" else None
        if identifier is None:
            return symbol(self.kind, name, attribute)
        # only what an identifier is made of: other properties may refer back to this resource
        naming_properties = (naming.name_property if naming else "", "Path")
        resolved = {key: self.value(properties[key]) for key in naming_properties if key in properties}
        found = identifiers(self.kind, str(resource.get("Type")), name, resolved, self.pseudo)
        return found.get(identifier, symbol(self.kind, name, identifier))

    def _sub(self, argument: Any) -> str:
        text, extra = (argument[0], argument[1]) if isinstance(argument, list) else (argument, {})

        def replaced(match: re.Match[str]) -> str:
            literal, name = match[1], match[2].strip()
            # ${!Name} is CloudFormation's way to write ${Name} itself
            if literal:
                return f"${{{name}}}"
            if name in extra:
                return self._text(extra[name])
            found = self._get_att(name) if "." in name and name not in self.parameters else self._ref(name)
            if isinstance(found, list):
                raise ValueError(f"{name} is a list")
            return "" if found is _NOTHING else str(found)

        return _VARIABLE.sub(replaced, text)

    def _if(self, argument: Any) -> Any:
        name, yes, no = argument
        return self._resolve(yes if self.condition(name) else no)

    def _find_in_map(self, argument: Any) -> Any:
        mapping, first, second = (self._text(one) for one in argument[:3])
        return self._resolve(self.template["Mappings"][mapping][first][second])

    def _cidr(self, argument: Any) -> list[str]:
        block, count, bits = (
            ipaddress.ip_network(self._text(argument[0])),
            int(self.value(argument[1])),
            int(self.value(argument[2])),
        )
        blocks = [str(one) for one in itertools.islice(block.subnets(new_prefix=block.max_prefixlen - bits), count)]
        if len(blocks) < count:
            raise ValueError(f"{block} has fewer than {count} blocks of {bits} bits")
        return blocks
