"""What the roles of scripts/ecs/templates/identity.yaml may do: what their holders call, and nothing else.

The calls are collected where they are made: scripts/release/s3_store.py against moto, and the code of `make deploy` and
`make doctor`.
"""

import re

import boto3
import botocore.client
import pytest

from scripts.ecs.calls import PUSH, calls_of
from scripts.ecs.preflight.resolve.permissions import as_list, may, statements
from scripts.ecs.preflight.resolve.templates import Resource
from scripts.ecs.stacks import ORDER
from scripts.release.address import open_store
from tests.ecs.scripted_aws import moto_server
from tests.ecs.test_templates import SUBJECT, TEMPLATES, TEXTS, fits, resource, stacks


def actions(role: Resource) -> set[str]:
    """All actions that its policies name."""
    documents = [statements(policy["PolicyDocument"]) for policy in role.list("Policies")]
    return {action for document in documents for statement in document for action in as_list(statement["Action"])}


def test_no_role_may_do_everything_and_each_star_gives_its_reason():
    for role in stacks(GitHubSubject=SUBJECT).of("IAM::Role"):
        assert [action for action in actions(role) if "*" in action] == [], role.name
    stars = [line for line in TEXTS["identity"].splitlines() if re.search(r'Resource: .?"\*"', line)]
    assert len(stars) > 5
    assert [line for line in stars if " # " not in line] == []


def test_only_jobs_with_the_given_subject_may_deploy_from_github():
    assert not {"DeployRole", "OidcProvider"} & {one.name for one in stacks().resources}
    known = "arn:aws:iam::111122223333:oidc-provider/token.actions.githubusercontent.com"
    for given in ({}, {"OidcProviderArn": known}):
        found = stacks(GitHubSubject=SUBJECT, **given)
        (statement,) = statements(resource(found, "DeployRole").get("AssumeRolePolicyDocument"))
        assert statement["Principal"] == {"Federated": known}
        assert statement["Condition"] == {
            "StringEquals": {
                "token.actions.githubusercontent.com:aud": "sts.amazonaws.com",
                "token.actions.githubusercontent.com:sub": SUBJECT,
            }
        }
        assert bool(found.of("IAM::OIDCProvider")) == (not given)
    about = TEMPLATES["identity"]["Parameters"]["GitHubSubject"]
    assert not fits(about, "repo:org/*")


def test_deploy_role_may_call_what_workflows_call_and_nothing_else():
    called = calls_of("deploy") | calls_of("doctor") | calls_of("running") | calls_of("unapplied") | set(PUSH)
    # the first needs no permission, the second has another name, the third is for a stack that was never made
    called -= {"sts:GetCallerIdentity", "s3:HeadObject", "cloudformation:DeleteStack"}
    # what rollouts call besides: see below
    rolled_out = {"s3:DeleteObject", "s3:GetObjectVersion", "s3:ListBucket", "s3:ListBucketVersions"}
    assert actions(resource(stacks(GitHubSubject=SUBJECT), "DeployRole")) == called | rolled_out | {"iam:PassRole"}


def test_deploy_role_may_change_only_the_service_stack_and_only_with_the_stack_role():
    found = stacks(GitHubSubject=SUBJECT)
    role, stack_role = resource(found, "DeployRole"), resource(found, "ServiceStackRole").identifiers["arn"]
    arn = "arn:aws:cloudformation:eu-central-1:111122223333:stack/seefood-{}/id"
    for kind in ORDER:
        change = may(found, role, "cloudformation:ExecuteChangeSet", arn.format(kind))
        propose = may(found, role, "cloudformation:CreateChangeSet", arn.format(kind), {"cloudformation:RoleArn": stack_role})
        assert (change, propose) == (kind == "service",) * 2
    assert not may(found, role, "cloudformation:CreateChangeSet", arn.format("service"), {"cloudformation:RoleArn": "another"})
    passed = {"iam:PassedToService": "cloudformation.amazonaws.com"}
    assert may(found, role, "iam:PassRole", stack_role, passed)
    assert not may(found, role, "iam:PassRole", resource(found, "TaskRole").identifiers["arn"], passed)


# S3 calls whose permission has another name
PERMISSION = {"HeadObject": "s3:GetObject", "ListObjectsV2": "s3:ListBucket", "ListObjectVersions": "s3:ListBucketVersions"}


@pytest.fixture
def asked(monkeypatch):
    """(action, resource) of each call of the bucket `models` of moto's server."""
    with moto_server("us-east-1"):
        s3 = boto3.client("s3")
        s3.create_bucket(Bucket="models")
        s3.put_bucket_versioning(Bucket="models", VersioningConfiguration={"Status": "Enabled"})
        calls = set()
        call = botocore.client.BaseClient._make_api_call

        def recorded(client, operation, arguments):
            action = PERMISSION.get(operation, f"s3:{operation}") + ("Version" if "VersionId" in arguments else "")
            # a list's prefix is not a resource
            calls.add((action, "arn:aws:s3:::models" + (f"/{arguments['Key']}" if "Key" in arguments else "")))
            return call(client, operation, arguments)

        monkeypatch.setattr(botocore.client.BaseClient, "_make_api_call", recorded)
        yield calls


@pytest.fixture
def archive(tmp_path):
    path = tmp_path / "flowers-1.0.0.mar"
    path.write_bytes(b"model")
    return path


def refused(name, calls):
    """The calls that this role may not make."""
    found = stacks(GitHubSubject=SUBJECT)
    bucket, role = resource(found, "ModelBucket").identifiers["arn"], resource(found, name)
    return [call for call in sorted(calls) if not may(found, role, call[0], call[1].replace("arn:aws:s3:::models", bucket))]


def test_task_may_read_releases_and_write_its_status_and_nothing_else(asked, archive, tmp_path):
    store = open_store("s3://models/release.json")
    store.write("{}", None)
    store.put(archive)
    asked.clear()

    found = store.read()
    assert found is not None
    assert store.read(found[1]) is None
    store.fetch(archive.name, tmp_path / "fetched.mar")
    store.write_status("task-1", {"ready": True})
    assert [name for _, name in store.instances()] == ["task-1"]
    store.write_status("task-1", None)

    assert refused("TaskRole", asked) == []
    # for how long captured photos stay: scripts/serving/capture_store.py asks, not the store of releases
    assert actions(resource(stacks(), "TaskRole")) == {action for action, _ in asked} | {"s3:GetLifecycleConfiguration"}
    others = {("s3:PutObject", "release.json"), ("s3:DeleteObject", "release.json"), ("s3:PutObject", archive.name)}
    others = {(action, f"arn:aws:s3:::models/{key}") for action, key in others}
    assert refused("TaskRole", others) == sorted(others)


def test_deploy_role_may_roll_out_a_model_of_any_name(asked, archive):
    store = open_store("s3://models/release.json")
    store.write("2", store.write("1", None))
    store.put(archive)
    store.write_status("task-1", {"ready": True})
    asked.discard(("s3:PutObject", "arn:aws:s3:::models/release.status/task-1.json"))  # tasks do that
    assert store.history() == ["2", "1"]
    assert store.has(archive.name)
    assert [status for _, status in store.statuses()] == [{"ready": True}]
    asked.add(("s3:DeleteObject", "arn:aws:s3:::models/release.status/task-1.json"))  # once it is a day old

    assert refused("DeployRole", asked) == []
    others = {("s3:DeleteObject", f"arn:aws:s3:::models/{key}") for key in ("release.json", archive.name)}
    assert refused("DeployRole", others) == sorted(others)


def test_retrain_role_reads_photos_and_adds_data_and_nothing_else():
    found = stacks(GitHubSubject=SUBJECT)
    role, bucket = resource(found, "RetrainRole"), resource(found, "ModelBucket").identifiers["arn"]
    (statement,) = statements(role.get("AssumeRolePolicyDocument"))
    claim = statement["Condition"]["StringEquals"]["token.actions.githubusercontent.com:sub"]
    assert claim == SUBJECT.replace(":environment:production", ":environment:retrain")
    for key in ("captured/1.photo", "reviewed/labels.csv", "dvc/a"):
        assert may(found, role, "s3:GetObject", f"{bucket}/{key}")
        assert may(found, role, "s3:PutObject", f"{bucket}/{key}") is (key == "dvc/a")
    for key in ("release.json", "flowers-1.0.0.mar", "release.status/a.json"):
        assert not any(may(found, role, f"s3:{one}", f"{bucket}/{key}") for one in ("GetObject", "PutObject", "DeleteObject"))
    s3 = {"GetBucketVersioning", "GetObject", "GetObjectVersion", "ListBucket", "ListBucketVersions", "PutObject"}
    assert actions(role) == {"cloudformation:DescribeStacks", *(f"s3:{one}" for one in s3)}
    assert "RetrainRole" not in {one.name for one in stacks().resources}


def test_deploy_role_reads_no_photo_of_a_stranger_and_changes_no_data():
    found = stacks(GitHubSubject=SUBJECT)
    role, bucket = resource(found, "DeployRole"), resource(found, "ModelBucket").identifiers["arn"]
    assert may(found, role, "s3:GetObject", f"{bucket}/dvc/a")
    for action, key in (("GetObject", "captured/a"), ("GetObject", "reviewed/a"), ("PutObject", "dvc/a")):
        assert not may(found, role, f"s3:{action}", f"{bucket}/{key}")


def test_tasks_may_keep_photos_only_where_a_share_is_set():
    for share, kept in (("0", False), ("0.01", True), ("1", True)):
        found = stacks(CaptureShare=share)
        address = f"{resource(found, 'ModelBucket').identifiers['arn']}/captured/a"
        role = resource(found, "TaskRole")
        assert [may(found, role, f"s3:{one}", address) for one in ("GetObject", "PutObject")] == [kept, kept]
