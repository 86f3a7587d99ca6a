"""Calls of AWS in a deployment's region, with errors that name the call and say what to do. scripts/ecs/calls.py lists them all."""

import contextlib
import difflib
from collections.abc import Iterator
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
from scripts.errors import SeeFoodError

# boto3 waits 60 s for either and tries 3 times: too long for a person who watches, too few attempts under throttling
CONNECT_TIMEOUT_S, READ_TIMEOUT_S, ATTEMPTS = 5, 30, 5

DENIED = ("AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "AuthorizationError", "403")
EXPIRED = ("ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired")
UNKNOWN = (
    "InvalidClientTokenId",
    "UnrecognizedClientException",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "InvalidSignatureException",
    "IncompleteSignature",
    "AuthFailure",
    "OptInRequired",
)
# the service-linked role of ECS, which a new account may lack, and how to create it
ECS_ROLE = "AWSServiceRoleForECS"
CREATE_ECS_ROLE = "aws iam create-service-linked-role --aws-service-name ecs.amazonaws.com"
# IAM's name of a service where it differs from boto3's
PREFIX = {"elbv2": "elasticloadbalancing", "service-quotas": "servicequotas"}
ACRONYMS = {"aws": "AWS"}


class AwsError(SeeFoodError):
    """A call failed; the message names it and says what to do. `code` is AWS's own, "" if AWS was not reached."""

    def __init__(self, message: str, call: str, code: str, transient: bool) -> None:
        super().__init__(message)
        self.call, self.code = call, code
        self.transient = transient  # worth a retry: the network or AWS itself failed

    @property
    def bad_credentials(self) -> bool:
        """Whether every other call will fail, too: there are no credentials, or AWS rejects them."""
        return self.code in (*EXPIRED, *UNKNOWN) or (not self.code and not self.transient)


class Aws:
    """Clients for one region."""

    def __init__(self, region: str) -> None:
        """DeploymentError if there is no such region, AwsError if there is no such AWS_PROFILE."""
        self.region = region
        self._clients: dict[str, Any] = {}
        with _named("sts:GetCallerIdentity"):
            # the default session, because scripts/release/s3_store.py makes its client from that: it gets the same region
            boto3.setup_default_session(region_name=region)
        assert boto3.DEFAULT_SESSION is not None
        session = boto3.DEFAULT_SESSION
        known = [
            name for partition in session.get_available_partitions() for name in session.get_available_regions("ecs", partition)
        ]
        if region not in known:
            close = difflib.get_close_matches(region, known, n=3) or ["eu-central-1"]
            raise DeploymentError(f"region is {region!r}, expected a region with ECS, such as {' or '.join(close)}")

    def client(self, service: str) -> Any:
        """boto3's client, one for each service."""
        if service not in self._clients:
            retries: Any = {"mode": "standard", "total_max_attempts": ATTEMPTS}
            config = Config(connect_timeout=CONNECT_TIMEOUT_S, read_timeout=READ_TIMEOUT_S, retries=retries)
            self._clients[service] = boto3.client(service, config=config)  # type: ignore[call-overload]
        return self._clients[service]

    def call(self, service: str, operation: str, **arguments: Any) -> Any:
        """The response to one call. AwsError."""
        with _named(name_of(service, operation)):
            return getattr(self.client(service), operation)(**arguments)

    def pages(self, service: str, operation: str, member: str, **arguments: Any) -> Iterator[Any]:
        """The items under `member` of all pages of a response, fetched as they are needed. AwsError."""
        with _named(name_of(service, operation)):
            for page in self.client(service).get_paginator(operation).paginate(**arguments):
                yield from page.get(member, [])


def name_of(service: str, operation: str) -> str:
    """A call as IAM writes it: elasticloadbalancing:DescribeTargetHealth for "elbv2", "describe_target_health"."""
    return f"{PREFIX.get(service, service)}:{''.join(ACRONYMS.get(word, word.capitalize()) for word in operation.split('_'))}"


@contextlib.contextmanager
def _named(call: str) -> Iterator[None]:
    try:
        yield
    except ClientError as error:
        raise _refusal(call, error) from error
    except (NoCredentialsError, PartialCredentialsError) as error:
        ways = "AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run `aws configure`"
        raise AwsError(f"there are no AWS credentials ({error}): set {ways}", call, "", False) from error
    except (ProfileNotFound, CredentialRetrievalError, TokenRetrievalError, SSOError) as error:
        message = f"cannot load the AWS credentials: {error}. Log in again, or choose another AWS_PROFILE"
        raise AwsError(message, call, "", False) from error
    except (BotoCoreError, ResponseParserError) as error:
        raise AwsError(f"{call} got no response: {error}", call, "", True) from error


def _refusal(call: str, error: ClientError) -> AwsError:
    """What an error that AWS answered with means for the person who runs the command."""
    code, reason = error.response["Error"]["Code"], error.response["Error"].get("Message") or "no reason given"
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if code in EXPIRED:
        return AwsError(f"{call}: the AWS credentials have expired ({reason}): log in again", call, code, False)
    if code in UNKNOWN:
        cause = "AWS does not accept these credentials, or the region is not enabled for the account"
        return AwsError(f"{call}: {cause} ({code}: {reason})", call, code, False)
    if code in DENIED:
        advice = (
            "grant it to the identity that `aws sts get-caller-identity` prints; `python -m scripts.ecs.calls` lists every call"
        )
        return AwsError(f"{call} is denied: {reason}\n{advice}", call, code, False)
    return AwsError(f"{call} failed: {code}: {reason}", call, code, status >= 500 or "Throttling" in code)
