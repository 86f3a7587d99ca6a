"""Rules about storage: models, the release document, images and logs survive, and nobody else reads or changes them."""

import json
from collections.abc import Iterator
from typing import Any

from scripts.ecs.preflight.resolve.permissions import concerns, statements
from scripts.ecs.preflight.resolve.templates import Resource, Stacks
from scripts.ecs.preflight.resolve.wiring import Finding, is_true, number, shown

# the running image, and two to roll back to
MIN_IMAGES = 3
MAY_EXPIRE = ("release.status/", "captured/", "reviewed/")


def bucket_keeps_versions(stacks: Stacks) -> Iterator[Finding]:
    """A rollback reads old versions of the release document, and rollouts refuse a bucket without them: enable versioning."""
    for bucket in stacks.of("S3::Bucket"):
        status = bucket.get("VersioningConfiguration", "Status")
        if status != "Enabled":
            yield Finding(f"{bucket}", f"VersioningConfiguration.Status is {shown(status)}", "Enabled")


def bucket_is_private(stacks: Stacks) -> Iterator[Finding]:
    """Whoever can write to the bucket runs code in every task: block public access in all four ways, and require TLS."""
    for bucket in stacks.of("S3::Bucket"):
        for key in ("BlockPublicAcls", "BlockPublicPolicy", "IgnorePublicAcls", "RestrictPublicBuckets"):
            value = bucket.get("PublicAccessBlockConfiguration", key)
            if not is_true(value):
                yield Finding(f"{bucket}", f"{key} is {shown(value)}", "true")
    for policy in stacks.of("S3::BucketPolicy"):
        for statement in statements(policy.get("PolicyDocument")):
            if statement.get("Effect") == "Allow" and statement.get("Principal") in ("*", {"AWS": "*"}, {"AWS": ["*"]}):
                yield Finding(f"{policy}", "it allows everybody", "only roles of this account")
    for bucket in stacks.of("S3::Bucket"):
        arn = bucket.identifiers["arn"]
        of_bucket = [one for one in stacks.of("S3::BucketPolicy") if stacks.find(one.get("Bucket"), bucket.type, "name") == bucket]
        denied = [
            one
            for policy in of_bucket
            for one in statements(policy.get("PolicyDocument"))
            if one.get("Effect") == "Deny" and one.get("Principal") in ("*", {"AWS": "*"}) and _requires_tls(one.get("Condition"))
        ]
        # one call on an object and one on the bucket, as a Deny may name either ARN and miss the other
        for action, resource in (("s3:PutObject", f"{arn}/release.json"), ("s3:ListBucket", arn)):
            if not any(concerns(one, action, resource) for one in denied):
                yield Finding(
                    f"{bucket}",
                    f"its policy allows {action} without TLS",
                    "a Deny for everybody where aws:SecureTransport is false",
                )


def bucket_policy_allows_tasks(stacks: Stacks) -> Iterator[Finding]:
    """A Deny in the bucket's policy overrides every role: deny requests without TLS, and nothing else."""
    for policy in stacks.of("S3::BucketPolicy"):
        bucket = stacks.find(policy.get("Bucket"), "AWS::S3::Bucket", "name")
        arn = bucket.identifiers["arn"] if bucket else ""
        for statement in statements(policy.get("PolicyDocument")):
            # any Deny without our condition could lock tasks out
            objects = any(concerns(statement, action, f"{arn}/release.json") for action in ("s3:GetObject", "s3:PutObject"))
            conditions = statement.get("Condition")
            if (
                statement.get("Effect") == "Deny"
                and (objects or concerns(statement, "s3:ListBucket", arn))
                and not _requires_tls(conditions)
            ):
                yield Finding(
                    f"{policy}", f"it denies {statement.get('Action')}", "no Deny, or only where aws:SecureTransport is false"
                )


def _requires_tls(conditions: Any) -> bool:
    keys = {name.lower(): value for one in (conditions or {}).values() for name, value in one.items()}
    # a minimum version of TLS excludes plain HTTP as well
    if "s3:tlsversion" in keys:
        return True
    return str(keys.get("aws:securetransport")).lower() in ("false", "['false']")


def bucket_keeps_models(stacks: Stacks) -> Iterator[Finding]:
    """A lifecycle rule that expires models or the release document breaks every task: expire only statuses and photos."""
    for bucket in stacks.of("S3::Bucket"):
        for rule in bucket.list("LifecycleConfiguration", "Rules"):
            prefix = rule.get("Prefix") or (rule.get("Filter") or {}).get("Prefix") or ""
            expiring = ("ExpirationInDays", "ExpirationDate", "NoncurrentVersionExpiration", "NoncurrentVersionExpirationInDays")
            moving = ("Transitions", "Transition", "NoncurrentVersionTransitions")
            active = [key for key in (*expiring, *moving) if key in rule]
            # moving to an archive class is as bad as expiry: reads fail
            if rule.get("Status", "Enabled") == "Enabled" and active and not str(prefix).startswith(MAY_EXPIRE):
                found = f"rule {shown(rule.get('Id'))} has {', '.join(active)} for {prefix or 'everything'}"
                yield Finding(f"{bucket}", found, f"only {', '.join(MAY_EXPIRE)} to expire")


def old_statuses_expire(stacks: Stacks) -> Iterator[Finding]:
    """Each task writes its status every ten seconds, and every write is a version: expire noncurrent ones under release.status/."""
    for bucket in stacks.of("S3::Bucket"):
        rules = [
            rule
            for rule in bucket.list("LifecycleConfiguration", "Rules")
            if rule.get("Status") == "Enabled"
            and str(rule.get("Prefix") or (rule.get("Filter") or {}).get("Prefix")).startswith("release.status")
        ]
        days = [number((rule.get("NoncurrentVersionExpiration") or {}).get("NoncurrentDays")) for rule in rules]
        if not any(one is not None and 1 <= one <= 30 for one in days):
            found = f"NoncurrentDays of release.status/ is {', '.join(map(shown, days)) or 'not set'}"
            yield Finding(f"{bucket}", found, "1 to 30")


def image_tags_are_immutable(stacks: Stacks) -> Iterator[Finding]:
    """If a tag can be moved, a replaced task may start an untested image: set ImageTagMutability to IMMUTABLE."""
    for repository in stacks.of("ECR::Repository"):
        value = repository.get("ImageTagMutability")
        if value != "IMMUTABLE":
            yield Finding(f"{repository}", f"ImageTagMutability is {shown(value or 'MUTABLE')}", "IMMUTABLE")


def registry_keeps_images(stacks: Stacks) -> Iterator[Finding]:
    """A lifecycle policy that expires the running image breaks the next start of a task: keep the newest three or more."""
    for repository in stacks.of("ECR::Repository"):
        text = repository.get("LifecyclePolicy", "LifecyclePolicyText")
        try:
            rules = json.loads(str(text))["rules"] if text else []
        except (ValueError, KeyError, TypeError):
            yield Finding(f"{repository}", "LifecyclePolicyText is not a policy", "JSON with rules")
            continue
        for rule in rules:
            selection = rule.get("selection", {})
            # no task definition refers to an untagged image
            if selection.get("tagStatus") == "untagged":
                continue
            # by age even the running image expires, if nothing is deployed for long
            by_age = selection.get("countType") != "imageCountMoreThan"
            if by_age or (number(selection.get("countNumber")) or 0) < MIN_IMAGES:
                found = f"it expires images by {selection.get('countType')} {selection.get('countNumber')}"
                yield Finding(f"{repository}", found, f"imageCountMoreThan {MIN_IMAGES} or more")


def storage_outlives_its_stack(stacks: Stacks) -> Iterator[Finding]:
    """Deleting or replacing a stack would delete models and images: set DeletionPolicy and UpdateReplacePolicy to Retain."""
    kept: list[Resource] = stacks.of("S3::Bucket", "ECR::Repository")
    for resource in kept:
        for key in ("DeletionPolicy", "UpdateReplacePolicy"):
            value = resource.attributes.get(key)
            if not str(value).startswith("Retain"):
                yield Finding(f"{resource}", f"{key} is {shown(value)}", "Retain")
        # it deletes all images with the stack
        if is_true(resource.get("EmptyOnDelete")):
            yield Finding(f"{resource}", "EmptyOnDelete is true", "false")


def logs_are_kept_for_a_time(stacks: Stacks) -> Iterator[Finding]:
    """Logs that are kept forever cost more every month: set RetentionInDays."""
    for group in stacks.of("Logs::LogGroup"):
        days = number(group.get("RetentionInDays"))
        if days is None or days < 1:
            yield Finding(f"{group}", f"RetentionInDays is {shown(group.get('RetentionInDays'))}", "a number of days, e.g. 30")


RULES = (
    bucket_keeps_versions,
    bucket_is_private,
    bucket_policy_allows_tasks,
    bucket_keeps_models,
    old_statuses_expire,
    image_tags_are_immutable,
    registry_keeps_images,
    storage_outlives_its_stack,
    logs_are_kept_for_a_time,
)
