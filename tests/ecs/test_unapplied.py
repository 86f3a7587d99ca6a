"""What GitHub Actions leaves to a person: stacks other than the service's that are not as their templates."""

import pytest

from scripts.ecs.aws import AwsError
from scripts.ecs.calls import calls_of
from scripts.ecs.deploy import unapplied as module
from scripts.ecs.deploy.unapplied import BY_PERSON, main, unapplied
from scripts.ecs.stacks import Deployment, read_template
from tests.ecs.deploying import DEPLOYMENT, OUTPUTS
from tests.ecs.scripted_aws import NAME, ScriptedStacks, moto


@pytest.fixture
def aws():
    with moto() as aws:
        yield aws


@pytest.fixture
def deployed(aws):
    """All stacks but the service, as the templates and the deployment say."""
    scripted, outputs = ScriptedStacks(aws.client("cloudformation"), OUTPUTS), {}
    for kind in BY_PERSON:
        scripted.make(kind, values=DEPLOYMENT.values(read_template(kind), outputs))
        outputs |= OUTPUTS[kind]
    yield scripted
    scripted.close()


def test_nothing_is_unapplied_right_after_a_deploy(aws, deployed):
    assert unapplied(aws, DEPLOYMENT) == []
    assert {f"cloudformation:{name}" for name in deployed.calls} == calls_of("unapplied")


def test_changed_templates_and_parameters_and_missing_stacks_are_named(aws, deployed, monkeypatch):
    def edited(kind):
        template = read_template(kind)
        if kind == "network":
            template["Resources"]["Second"] = template["Resources"].pop("NatAddress")
            template["Resources"]["Vpc"]["Properties"]["EnableDnsSupport"] = False
        return template

    monkeypatch.setattr(module, "read_template", edited)
    del deployed.stacks[f"{NAME}-observability"]
    given = DEPLOYMENT._replace(parameters={**DEPLOYMENT.parameters, "MaxInstances": "9"})
    assert unapplied(aws, given) == [
        "seefood-network: resource NatAddress is gone",
        "seefood-network: resource Second is new",
        "seefood-network: resource Vpc differs",
        "seefood-cluster: MaxInstances is '4', and would be '9'",
        "seefood-observability does not exist",
    ]


def test_in_a_workflow_each_is_a_warning(aws, deployed, monkeypatch, capsys):
    monkeypatch.setattr(module, "Aws", lambda region: aws)
    monkeypatch.setattr(Deployment, "load", lambda name: DEPLOYMENT)
    main([NAME])
    assert capsys.readouterr().out == "all other stacks are as their templates\n"
    del deployed.stacks[f"{NAME}-cluster"]
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    main([NAME])
    assert capsys.readouterr().out.splitlines() == [
        "::warning title=Not applied::seefood-cluster does not exist",
        "::warning title=Not applied::make deploy STACK=seefood on a terminal applies 1 differences of the other stacks",
    ]


def test_a_missing_permission_is_an_error(aws, deployed):
    deployed.denied.add("GetTemplate")
    with pytest.raises(AwsError, match="cloudformation:GetTemplate is denied"):
        unapplied(aws, DEPLOYMENT)
