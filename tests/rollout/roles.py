"""moto's S3 with IAM enforced: callers have the policies of roles of scripts/ecs/templates/identity.yaml, and no other rights."""

import contextlib
import json
import uuid
from collections.abc import Iterator
from typing import Any

import boto3
import moto.settings
import pytest

from scripts.ecs.preflight.resolve.templates import resolve
from scripts.ecs.stacks import Deployment, read_templates
from scripts.release.s3_store import S3Store
from scripts.settings import Settings
from tests.ecs.scripted_aws import moto_server

BUCKET = "models"
RELEASE = f"s3://{BUCKET}/release.json"
SUBJECT = "repo:ORG@1/REPO@2:environment:production"
REGION = "us-east-1"


class Enforced:
    """A bucket that keeps versions, and the credentials of each role."""

    def __init__(self):
        self.stacks = resolve(Deployment("seefood", REGION, {"GitHubSubject": SUBJECT}), read_templates())
        s3 = boto3.client("s3", region_name=REGION)
        s3.create_bucket(Bucket=BUCKET)
        s3.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})

    def credentials(self, role: str, without: str = "") -> dict[str, str]:
        """Of the template's role, as arguments of boto3; `without` is an action that it lacks here."""
        (found,) = [one for one in self.stacks.of("IAM::Role") if one.name == role]
        (bucket,) = self.stacks.of("S3::Bucket")
        text = json.dumps(found.list("Policies"), ensure_ascii=False).replace(bucket.identifiers["arn"], f"arn:aws:s3:::{BUCKET}")
        # moto keeps the roles of this process's earlier tests
        iam, name = boto3.client("iam", region_name=REGION), f"{role}-{uuid.uuid4().hex}"
        trust = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": "*", "Action": "sts:AssumeRole"}]}
        arn = iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(trust))["Role"]["Arn"]
        for policy in json.loads(text):
            document = policy["PolicyDocument"]
            for statement in document["Statement"]:
                statement.pop("Condition", None)  # moto denies what it cannot evaluate
                actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
                statement["Action"] = [one for one in actions if one != without] or ["sts:GetCallerIdentity"]
            iam.put_role_policy(RoleName=name, PolicyName=policy["PolicyName"], PolicyDocument=json.dumps(document))
        given = boto3.client("sts", region_name=REGION).assume_role(RoleArn=arn, RoleSessionName="test")["Credentials"]
        return {
            "aws_access_key_id": given["AccessKeyId"],
            "aws_secret_access_key": given["SecretAccessKey"],
            "aws_session_token": given["SessionToken"],
        }

    def store(self, credentials: dict[str, Any], settings: Settings) -> S3Store:
        """The release document, as whoever has these credentials sees it."""
        store = S3Store(RELEASE, settings)
        store._client = boto3.client("s3", region_name=REGION, **credentials)
        return store


@contextlib.contextmanager
def enforced() -> Iterator[Enforced]:
    """The bucket and roles, in moto's server; inside `enforcing()` it enforces the policies."""
    with moto_server(REGION):
        yield Enforced()


@contextlib.contextmanager
def enforcing() -> Iterator[None]:
    """moto, whose server runs in this process, denies what no policy allows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(moto.settings, "INITIAL_NO_AUTH_ACTION_COUNT", 0)
        yield
