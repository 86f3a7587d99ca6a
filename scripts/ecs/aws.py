"""Calls of AWS in a deployment's region, with errors that name the call; `python scripts/ecs/aws.py --calls` lists every call.

That list is read from the code of the commands, so it cannot lack one. What CloudFormation itself calls to make the resources
of the templates does not stand in it: the templates say that.
"""

import argparse
import ast
import contextlib
import difflib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    SSOError,
    TokenRetrievalError,
)
from botocore.parsers import ResponseParserError

from scripts.ecs.stacks import DeploymentError

HERE = Path(__file__).resolve().parent
COMMANDS = {"preflight": "preflight.preflight", "deploy": "deploy.deploy", "doctor": "doctor.doctor", "destroy": "deploy.destroy"}
CONNECT_TIMEOUT_S, READ_TIMEOUT_S, ATTEMPTS = 5, 30, 5

DENIED = ("AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "AuthorizationError", "403")
EXPIRED = ("ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired")
UNKNOWN = (
    *("InvalidClientTokenId", "UnrecognizedClientException", "InvalidAccessKeyId", "SignatureDoesNotMatch"),
    *("InvalidSignatureException", "IncompleteSignature", "AuthFailure", "OptInRequired"),
)
# what IAM calls a service where that is not boto3's name, and the permission where it is not the call's name
PREFIX = {"elbv2": "elasticloadbalancing", "service-quotas": "servicequotas"}
PERMISSION = {"s3:HeadObject": "s3:GetObject", "s3:ListObjectVersions": "s3:ListBucketVersions"}
# `docker push` makes these itself, with the login that ecr:GetAuthorizationToken gives
PUSH = (
    *("ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:CompleteLayerUpload"),
    *("ecr:InitiateLayerUpload", "ecr:PutImage", "ecr:UploadLayerPart"),
)
ACRONYMS = {"aws": "AWS"}
STORE_METHODS = ("read", "write", "put")  # what deploy uses of scripts/release/s3_store.py


class AwsError(RuntimeError):
    """A call failed; the message names it and says what to do. `code` is AWS's own, "" where AWS was not reached."""

    def __init__(self, message: str, call: str, code: str, passing: bool) -> None:
        super().__init__(message)
        self.call, self.code = call, code
        self.passing = passing  # worth another try, as nothing but the network or AWS itself is at fault

    @property
    def hopeless(self) -> bool:
        """Whether no other call can succeed either: there are no credentials, or none that AWS takes."""
        return self.code in (*EXPIRED, *UNKNOWN) or (not self.code and not self.passing)


class Aws:
    """Clients for one region."""

    def __init__(self, region: str) -> None:
        """DeploymentError if there is no such region, AwsError if AWS_PROFILE names nothing."""
        self.region = region
        self._clients: dict[str, Any] = {}
        with _named("sts:GetCallerIdentity"):
            # the default session, so that the store of the release document gets the same region
            boto3.setup_default_session(region_name=region)
        assert boto3.DEFAULT_SESSION is not None
        session = boto3.DEFAULT_SESSION
        known = [
            name for partition in session.get_available_partitions() for name in session.get_available_regions("ecs", partition)
        ]
        if region not in known:
            close = difflib.get_close_matches(region, known, n=3) or ["eu-central-1"]
            raise DeploymentError(f"region is {region!r}, expected one that has ECS, such as {' or '.join(close)}")

    def client(self, service: str) -> Any:
        """boto3's client, made once."""
        if service not in self._clients:
            retries: Any = {"mode": "standard", "total_max_attempts": ATTEMPTS}
            config = Config(connect_timeout=CONNECT_TIMEOUT_S, read_timeout=READ_TIMEOUT_S, retries=retries)
            self._clients[service] = boto3.client(service, config=config)  # type: ignore[call-overload]
        return self._clients[service]

    def call(self, service: str, operation: str, **arguments: Any) -> Any:
        """The answer of one call. AwsError."""
        with _named(name_of(service, operation)):
            return getattr(self.client(service), operation)(**arguments)

    def pages(self, service: str, operation: str, member: str, **arguments: Any) -> Iterator[Any]:
        """The items under `member` of all pages of an answer, which are fetched as they are needed. AwsError."""
        with _named(name_of(service, operation)):
            for page in self.client(service).get_paginator(operation).paginate(**arguments):
                yield from page.get(member, [])


def name_of(service: str, operation: str) -> str:
    """elasticloadbalancing:DescribeTargetHealth of "elbv2", "describe_target_health": as IAM writes it."""
    return f"{PREFIX.get(service, service)}:{''.join(ACRONYMS.get(word, word.capitalize()) for word in operation.split('_'))}"


@contextlib.contextmanager
def _named(call: str) -> Iterator[None]:
    try:
        yield
    except ClientError as error:
        code, said = error.response["Error"]["Code"], error.response["Error"].get("Message") or "no reason given"
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if code in EXPIRED:
            raise AwsError(f"{call}: the AWS credentials have expired ({said}): log in again", call, code, False) from error
        if code in UNKNOWN:
            advice = "AWS does not know these credentials, or the region is not switched on for the account"
            raise AwsError(f"{call}: {advice} ({code}: {said})", call, code, False) from error
        if code in DENIED:
            advice = "allow it to whom `aws sts get-caller-identity` names; README lists every call that is made"
            raise AwsError(f"{call} is denied: {said}\n{advice}", call, code, False) from error
        raise AwsError(f"{call} failed: {code}: {said}", call, code, status >= 500 or "Throttling" in code) from error
    except (NoCredentialsError, PartialCredentialsError) as error:
        ways = "AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or `aws configure`"
        raise AwsError(f"there are no AWS credentials ({error}): set {ways}", call, "", False) from error
    except (ProfileNotFound, CredentialRetrievalError, TokenRetrievalError, SSOError) as error:
        raise AwsError(
            f"the AWS credentials cannot be had: {error}. Log in again, or choose another AWS_PROFILE", call, "", False
        ) from error
    except (BotoCoreError, ResponseParserError) as error:
        raise AwsError(f"{call} got no answer: {error}", call, "", True) from error


def calls_of(command: str) -> set[str]:
    """Every call that a command can make: those in its module and in each module of scripts.ecs that it imports.

    ValueError if one cannot be told from the code.
    """
    made: set[str] = set()
    seen, waiting = set(), [COMMANDS.get(command, command)]
    while waiting:
        module = waiting.pop()
        if module in seen:
            continue
        seen.add(module)
        for node in ast.walk(ast.parse((HERE / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8"))):
            match node:
                case ast.Call(
                    func=ast.Attribute(attr="call" | "pages"), args=[ast.Constant(str(service)), ast.Constant(str(name)), *_]
                ):
                    made.add(name_of(service, name))
                case ast.Call(func=ast.Attribute(attr="call" | "pages" | "client"), args=[_, *_]) if module != "aws":
                    raise ValueError(f"{module}.py, line {node.lineno}: a call of AWS must have its name written out")
                case ast.ImportFrom(module="scripts.ecs.preflight.rules", names=names):
                    waiting += [f"preflight.rules.{alias.name}" for alias in names]
                case ast.ImportFrom(module=str(name)) if name.startswith("scripts.ecs."):
                    waiting.append(name.removeprefix("scripts.ecs."))
                case ast.ImportFrom(module="scripts.ecs", names=names):
                    waiting += [alias.name for alias in names]
                case ast.ImportFrom(module="scripts.release.store"):
                    made |= _store_calls()
    return made


def _store_calls() -> set[str]:
    tree = ast.parse((HERE.parent / "release" / "s3_store.py").read_text(encoding="utf-8"))
    methods = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name in STORE_METHODS]
    return {
        name_of("s3", node.func.attr)
        for method in methods
        for node in ast.walk(method)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value) == "s3"
    }


def calls_table() -> str:
    """All calls and the commands that make them, as README shows them."""
    made = {command: calls_of(command) for command in COMMANDS}
    rows = [
        (call, ", ".join(command for command in COMMANDS if call in made[command])) for call in sorted(set.union(*made.values()))
    ]
    rows += [(call, "deploy, by `docker push`") for call in PUSH]
    lines = ["| Call | Made by |", "|---|---|"]
    for call, commands in sorted(rows):
        needs = f" (permission {PERMISSION[call]})" if call in PERMISSION else ""
        lines.append(f"| {call}{needs} | {commands} |")
    return "\n".join(lines)


def main() -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", action="store_true", required=True, help="print the table of all calls")
    parser.parse_args()
    print(calls_table())
    return 0


if __name__ == "__main__":
    sys.exit(main())
