"""All rules over the templates, and which of them a deployment breaks. Nothing here calls AWS."""

from typing import NamedTuple

from scripts.ecs.preflight.resolve.templates import Stacks
from scripts.ecs.preflight.resolve.wiring import Finding, Rule
from scripts.ecs.preflight.rules import (
    alarms,
    capacity,
    capture,
    connections,
    container,
    events,
    identity,
    instances,
    load_balancer,
    network,
    parts,
    scaling,
    service,
    storage,
    task,
)

# in the order in which a service comes up, so that the first broken rule is usually the cause of the others
MODULES = (
    parts,
    instances,
    capacity,
    task,
    container,
    service,
    scaling,
    alarms,
    events,
    load_balancer,
    connections,
    network,
    identity,
    storage,
    capture,
)
RULES: tuple[Rule, ...] = tuple(rule for module in MODULES for rule in module.RULES)


class Broken(NamedTuple):
    """A broken rule, by name, and what breaks it."""

    rule: str
    finding: Finding


def name_of(rule: Rule) -> str:
    """A rule's name as it is printed, e.g. task-fits-instance."""
    return rule.__name__.replace("_", "-")


def broken(stacks: Stacks) -> list[Broken]:
    """Everything that breaks a rule, each once. A rule that fails on a malformed value counts as broken."""
    found: dict[Broken, None] = {}
    for rule in RULES:
        try:
            found |= {Broken(name_of(rule), finding): None for finding in rule(stacks)}
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            # a template may hold anything: one odd value must not hide what the other rules find
            malformed = Finding("all stacks", f"the rule cannot be checked: {error!r}", "well-formed values")
            found[Broken(name_of(rule), malformed)] = None
    return list(found)
