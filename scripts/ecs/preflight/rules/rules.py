"""All rules of the templates, and what breaks them."""

from typing import NamedTuple

from scripts.ecs.preflight.resolve.templates import Stacks
from scripts.ecs.preflight.resolve.wiring import Finding, Rule
from scripts.ecs.preflight.rules import alarms as rules_alarms
from scripts.ecs.preflight.rules import capacity as rules_capacity
from scripts.ecs.preflight.rules import container as rules_container
from scripts.ecs.preflight.rules import identity as rules_identity
from scripts.ecs.preflight.rules import instances as rules_instances
from scripts.ecs.preflight.rules import load_balancer as rules_load_balancer
from scripts.ecs.preflight.rules import network as rules_network
from scripts.ecs.preflight.rules import scaling as rules_scaling
from scripts.ecs.preflight.rules import service as rules_service
from scripts.ecs.preflight.rules import stacks as rules_stacks
from scripts.ecs.preflight.rules import storage as rules_storage
from scripts.ecs.preflight.rules import task as rules_task

MODULES = (
    *(rules_stacks, rules_instances, rules_capacity, rules_task, rules_container, rules_service, rules_scaling, rules_alarms),
    *(rules_load_balancer, rules_network, rules_identity, rules_storage),
)
RULES: tuple[Rule, ...] = tuple(rule for module in MODULES for rule in module.RULES)


class Broken(NamedTuple):
    """A rule, by name, with what breaks it."""

    rule: str
    finding: Finding


def name_of(rule: Rule) -> str:
    """What a rule is called."""
    return rule.__name__.replace("_", "-")


def broken(stacks: Stacks) -> list[Broken]:
    """Everything that breaks a rule, each once. A rule that cannot be judged, as a value has no sense, is broken."""
    found: dict[Broken, None] = {}
    for rule in RULES:
        try:
            found |= {Broken(name_of(rule), finding): None for finding in rule(stacks)}
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            found[Broken(name_of(rule), Finding("all stacks", f"it cannot be judged: {error!r}", "values that have a sense"))] = (
                None
            )
    return list(found)
