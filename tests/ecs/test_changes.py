"""How make deploy changes a stack: shown first, nothing destroyed unasked, and what to do where a stack cannot be changed."""

import pytest

from scripts.ecs import stack
from scripts.ecs.deploy import changes
from scripts.ecs.deploy.watch import TASK_DEFINITION
from scripts.ecs.progress import Limit
from tests.ecs.deploying import BUCKET
from tests.ecs.scripted_aws import NAME, REGION

pytest_plugins = ["tests.ecs.deploy_fixtures"]


def test_question_answered_with_no_leaves_nothing_behind(scripted, command, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda question: "n")
    status, output = command("--image", "abc")
    assert status == 1
    assert "the answer is 'n'" in output
    assert not scripted.stacks
    assert not scripted.calls["ExecuteChangeSet"]
    # nobody at the terminal
    monkeypatch.setattr("builtins.input", lambda question: (_ for _ in ()).throw(EOFError))
    status, output = command("--image", "abc")
    assert status == 1
    assert "no terminal to answer 'Apply these changes to seefood-network? [y/n]': YES=1 (--yes) skips the question" in output
    assert not scripted.stacks


def test_what_cannot_be_created_again_is_replaced_only_if_it_is_named(scripted, deployed, command):
    bucket = {"LogicalResourceId": "ModelBucket", "ResourceType": "AWS::S3::Bucket", "Action": "Modify", "Replacement": "True"}
    scripted.changes["storage"] = [
        bucket | {"Details": [{"Target": {"Attribute": "Properties", "Name": "BucketName"}}], "PolicyAction": "ReplaceAndRetain"}
    ]
    status, output = command("--image", "new", "--yes")
    assert status == 1
    assert "REPLACED (the old one stays in AWS)  ModelBucket  AWS::S3::Bucket  BucketName" in output
    assert "which may destroy the release document, its history and the archives: nothing was changed" in output
    assert "REPLACE=ModelBucket (--replace)" in output
    assert not scripted.calls["ExecuteChangeSet"]
    status, output = command("--image", "old", "--yes", "--only", "storage", "--replace", "ModelBucket")
    assert status == 0, output
    assert scripted.calls["ExecuteChangeSet"] == 1


def change(action, kind, replacement=""):
    return changes.Change(action, "X", kind, replacement, [], False)


def test_what_may_be_lost():
    lost = [("Remove", ""), ("Dynamic", ""), ("Modify", "True"), ("Modify", "Conditional")]
    kept = [("Add", ""), ("Import", ""), ("Modify", "False")]
    for kind in changes.STATEFUL:
        assert all(change(action, kind, replacement).destructive for action, replacement in lost)
        assert not any(change(action, kind, replacement).destructive for action, replacement in kept)
    assert not change("Modify", TASK_DEFINITION, "True").destructive
    assert change("Dynamic", "AWS::S3::Bucket").label == "PERHAPS CHANGED"
    assert changes.table([]) == "  no resource changes, only outputs or settings of the stack"


def test_stack_whose_creation_failed_is_deleted_and_created_again(scripted, deployed, command):
    old = scripted.stacks[f"{NAME}-observability"]
    scripted.event(old, "AWS::Logs::LogGroup", "LogGroup", "CREATE_FAILED", "it exists already")
    scripted.end(old, "ROLLBACK_COMPLETE")
    status, output = command("--image", "old", "--yes", "--only", "observability")
    assert status == 0, output
    assert "its creation failed, nothing of it is in use. LogGroup (AWS::Logs::LogGroup): it exists already" in output
    assert scripted.stacks[f"{NAME}-observability"].id != old.id


@pytest.mark.parametrize(
    ("status", "advice"),
    [("UPDATE_ROLLBACK_FAILED", "aws cloudformation continue-update-rollback"), ("DELETE_FAILED", "make destroy")],
)
def test_stack_that_cannot_be_changed_is_left_alone_with_what_to_do(scripted, deployed, command, status, advice):
    network = scripted.stacks[f"{NAME}-network"]
    scripted.event(network, "AWS::EC2::Subnet", "PublicSubnet1", status, "it has dependencies")
    scripted.end(network, status)
    code, output = command("--image", "old", "--yes", "--only", "network")
    assert code == 1
    assert f"seefood-network is {status}, so it cannot be changed" in output
    assert advice in output
    assert "PublicSubnet1 (AWS::EC2::Subnet): it has dependencies" in output


def test_rejected_template_is_explained_and_leaves_no_empty_stack(scripted, command):
    scripted.refusal = "The following validation failed: use the DescribeEvents API"
    status, output = command("--image", "abc", "--yes")
    assert status == 1
    assert "CloudFormation rejects the template" in output
    assert "Unsupported property [Colour]" in output
    assert not scripted.stacks


def test_large_template_is_put_into_the_bucket(scripted, server):
    template = "# " + "x" * changes.MAX_BODY_BYTES
    request = changes.StackRequest(f"{NAME}-network", template, {})
    with pytest.raises(stack.StackError, match="no bucket exists before the storage stack"):
        changes.propose(server, request, None, Limit(5))
    changes.propose(server, request._replace(bucket=BUCKET), None, Limit(5))
    given = next(given for name, given in scripted.sent if name == "CreateChangeSet")
    assert "TemplateBody" not in given
    host, _, key = given["TemplateURL"].removeprefix("https://").partition("/")
    assert host == f"{BUCKET}.s3.{REGION}.amazonaws.com"
    assert server.call("s3", "get_object", Bucket=BUCKET, Key=key)["Body"].read().decode() == template
