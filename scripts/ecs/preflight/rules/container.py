"""Rules about the container: that it runs as it was tested - environment, secrets, rights, ports, its own health check, its end."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from scripts.ecs.preflight.resolve.permissions import may, trusts
from scripts.ecs.preflight.resolve.templates import Resource, Stacks
from scripts.ecs.preflight.resolve.wiring import (
    HEALTH_PORT,
    INTERNAL_PORTS,
    START_S,
    TRAFFIC_PORT,
    Finding,
    agent_settings,
    containers,
    environment,
    is_true,
    number,
    number_or,
    port_mappings,
    served_container,
    settings_of,
    shown,
)
from scripts.ecs.preflight.rules.instances import launch_templates
from scripts.ecs.preflight.rules.task import ROLE, tasks
from scripts.ecs.stacks import ORDER

# of the agent, for a container without StopTimeout
STOP_TIMEOUT_S = 30


def served(stacks: Stacks) -> Iterator[tuple[Resource, Mapping[str, Any]]]:
    """Each task definition with its container that serves."""
    for task in tasks(stacks):
        container = served_container(stacks, task)
        if container:
            yield task, container


def release_is_in_our_bucket(stacks: Stacks) -> Iterator[Finding]:
    """Without RELEASE a task serves what is in its image, which is nothing: name release.json in the bucket of these stacks."""
    for task, container in served(stacks):
        address = environment(container).get("RELEASE")
        match = re.fullmatch(r"s3://([^/]+)/(.+\.json)", address or "")
        bucket = stacks.find(match[1], "AWS::S3::Bucket", "name") if match else None
        if bucket is None or ORDER.index(bucket.stack) > ORDER.index(task.stack):
            names = [one.identifiers["name"] for one in stacks.of("S3::Bucket")]
            yield Finding(f"{task}", f"RELEASE is {shown(address)}", f"s3://{', '.join(names)}/release.json")
        for name in ("AWS_DEFAULT_REGION", "AWS_REGION"):
            region = environment(container).get(name)
            if region not in (None, stacks.deployment.region):
                yield Finding(f"{task}", f"{name} is {region}", f"{stacks.deployment.region}, where the bucket is")


def task_role_may_serve(stacks: Stacks) -> Iterator[Finding]:
    """A task that may not read its release or write its status never gets ready: let TaskRoleArn name a role that may."""
    for task, container in served(stacks):
        role = stacks.find(task.get("TaskRoleArn"), ROLE)
        if role is None:
            yield Finding(f"{task}", f"TaskRoleArn is {shown(task.get('TaskRoleArn'))}", "the ARN of the task role")
            continue
        if not trusts(stacks, role, "ecs-tasks.amazonaws.com"):
            yield Finding(f"{role}", "ECS tasks may not take it on", "trust in ecs-tasks.amazonaws.com, for sts:AssumeRole")
        match = re.fullmatch(r"s3://([^/]+)/(.+)\.json", environment(container).get("RELEASE", ""))
        bucket = stacks.find(match[1], "AWS::S3::Bucket", "name") if match else None
        if match is None or bucket is None:
            continue
        arn, key = bucket.identifiers["arn"], match[2]
        archive = key.rpartition("/")[0] + ("/" if "/" in key else "") + "seefood-1.0.0.mar"
        wanted = [("s3:GetObject", f"{arn}/{key}.json"), ("s3:GetObject", f"{arn}/{archive}"), ("s3:ListBucket", arn)]
        wanted += [(action, f"{arn}/{key}.status/x.json") for action in ("s3:PutObject", "s3:DeleteObject")]
        encryption = bucket.get("BucketEncryption", "ServerSideEncryptionConfiguration", 0, "ServerSideEncryptionByDefault") or {}
        if encryption.get("KMSMasterKeyID"):
            wanted += [(action, str(encryption["KMSMasterKeyID"])) for action in ("kms:Decrypt", "kms:GenerateDataKey")]
        for action, resource in wanted:
            if not may(stacks, role, action, resource):
                yield Finding(f"{role}", f"it may not {action} on {resource}", "that the task role may")


def settings_are_taken(stacks: Stacks) -> Iterator[Finding]:
    """The server refuses to start with a SEEFOOD_ variable that it does not know, or twice the same: correct name and value."""
    for task, container in served(stacks):
        try:
            settings_of(container)
        except ValueError as error:
            yield Finding(f"{task}", str(error), "a setting of scripts/settings.py")
        given = [*(container.get("Environment") or []), *(container.get("Secrets") or [])]
        names = [one.get("Name") for one in given]
        for name in sorted({str(one) for one in names if names.count(one) > 1}):
            yield Finding(f"{task}", f"{name} is set twice", "once, in Environment or in Secrets")
        filters = [one for one in stacks.of("Logs::MetricFilter") if "$." in str(one.get("FilterPattern"))]
        if filters and not is_true(environment(container).get("SEEFOOD_LOG_JSON")):
            found = f"SEEFOOD_LOG_JSON is {shown(environment(container).get('SEEFOOD_LOG_JSON'))}"
            yield Finding(f"{task}", found, f"true, as {filters[0]} and others count what JSON says")


def secrets_can_be_read(stacks: Stacks) -> Iterator[Finding]:
    """A task ends at once without its secret, the field of it, or the right to read it: correct ValueFrom or the execution role."""
    for task in tasks(stacks):
        role = stacks.find(task.get("ExecutionRoleArn"), ROLE, "arn")
        for container in containers(task):
            for secret in container.get("Secrets") or []:
                for found, expected in _wrong_with(stacks, role, secret):
                    yield Finding(f"{task}", f"secret {shown(secret.get('Name'))}: {found}", expected)


def _wrong_with(stacks: Stacks, role: Resource | None, secret: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    value = str(secret.get("ValueFrom") or "")
    if not secret.get("Name") or not value:
        yield f"Name is {shown(secret.get('Name'))}, ValueFrom {shown(secret.get('ValueFrom'))}", "both"
        return
    ours = next((one for one in stacks.of("SecretsManager::Secret") if value.startswith(one.identifiers["arn"])), None)
    if ours is None and ":secretsmanager:" not in value:
        region, account = stacks.pseudo["AWS::Region"], stacks.pseudo["AWS::AccountId"]
        arn = (
            value
            if value.startswith("arn:")
            else f"arn:{stacks.pseudo['AWS::Partition']}:ssm:{region}:{account}:parameter/{value.lstrip('/')}"
        )
        if role and not may(stacks, role, "ssm:GetParameters", arn):
            yield f"{role} may not ssm:GetParameters on {arn}", "that the execution role may"
        return
    fields = value[len(ours.identifiers["arn"]) + 1 :].split(":") if ours else value.split(":")[7:]
    arn = ours.identifiers["arn"] if ours else ":".join(value.split(":")[:7])
    if fields not in ([], [""]) and len(fields) != 3:
        yield f"ValueFrom is {value}", "the secret's ARN, or that and :FIELD:STAGE:VERSION, of which the last two may be empty"
    elif ours and fields not in ([], [""]) and fields[0] not in ("", *_fields(ours)):
        yield f"{ours} has no field {fields[0]}", f"one of {', '.join(_fields(ours)) or 'none, as it is no JSON'}"
    if role and not any(may(stacks, role, "secretsmanager:GetSecretValue", one) for one in (arn, f"{arn}-AbCdEf")):
        yield f"{role} may not secretsmanager:GetSecretValue on {arn}", "that the execution role may"


def _fields(secret: Resource) -> list[str]:
    """The fields of a secret that is JSON."""
    texts = [secret.get("SecretString"), secret.get("GenerateSecretString", "SecretStringTemplate")]
    found = (
        [str(secret.get("GenerateSecretString", "GenerateStringKey"))]
        if secret.get("GenerateSecretString", "GenerateStringKey")
        else []
    )
    for text in texts:
        try:
            content = json.loads(str(text))
        except ValueError:
            continue
        found += list(content) if isinstance(content, dict) else []
    return found


def container_has_few_rights(stacks: Stacks) -> Iterator[Finding]:
    """What breaks out of the server must find nothing: a read-only root, no root user, no privilege and no capability."""
    for task in tasks(stacks):
        for mode in ("PidMode", "IpcMode"):
            if task.get(mode) == "host":
                yield Finding(f"{task}", f"{mode} is host", "none")
        for container in containers(task):
            name, linux = container.get("Name"), container.get("LinuxParameters") or {}
            capabilities = linux.get("Capabilities") or {}
            if not is_true(container.get("ReadonlyRootFilesystem")):
                found = f"ReadonlyRootFilesystem of {name} is {shown(container.get('ReadonlyRootFilesystem'))}"
                yield Finding(f"{task}", found, "true")
            if not re.fullmatch(r"0*[1-9]\d*(:0*[1-9]\d*)?", str(container.get("User"))):
                yield Finding(f"{task}", f"User of {name} is {shown(container.get('User'))}", "10001:10001, as in the image")
            if is_true(container.get("Privileged")):
                yield Finding(f"{task}", f"Privileged of {name} is true", "false")
            if "ALL" not in (capabilities.get("Drop") or []) or capabilities.get("Add"):
                yield Finding(f"{task}", f"Capabilities of {name} are {shown(capabilities or None)}", "Drop: [ALL], and no Add")
            if "no-new-privileges" not in (container.get("DockerSecurityOptions") or []):
                found = f"DockerSecurityOptions of {name} is {shown(container.get('DockerSecurityOptions'))}"
                yield Finding(f"{task}", found, "no-new-privileges among them")


def tmp_can_be_written(stacks: Stacks) -> Iterator[Finding]:
    """The server unpacks models into /tmp, and its root is read-only: mount a tmpfs there of 256 MiB or more, not read-only."""
    for task, container in served(stacks):
        mounted = [one for one in (container.get("LinuxParameters") or {}).get("Tmpfs") or [] if one.get("ContainerPath") == "/tmp"]
        volumes = [one for one in container.get("MountPoints") or [] if one.get("ContainerPath") == "/tmp"]
        for one in mounted:
            if number_or(one.get("Size"), 0) < 256:
                yield Finding(f"{task}", f"Size of /tmp is {shown(one.get('Size'))}", "256 MiB or more")
            if "ro" in (one.get("MountOptions") or []):
                yield Finding(f"{task}", "MountOptions of /tmp has ro", "rw")
            limit = number(container.get("Memory")) or number(task.get("Memory"))
            if limit is not None and number_or(one.get("Size"), 0) >= limit:
                yield Finding(f"{task}", f"Size of /tmp is {one.get('Size')}", f"less than the task's memory, {limit:g} MiB")
        if not mounted and not any(not is_true(one.get("ReadOnly")) for one in volumes):
            yield Finding(f"{task}", "nothing is mounted at /tmp", "a tmpfs")


def served_container_is_essential(stacks: Stacks) -> Iterator[Finding]:
    """A task whose server has ended lives on unless the server is essential: set Essential to true, which is the default."""
    for task, container in served(stacks):
        if str(container.get("Essential", True)).lower() != "true":
            yield Finding(f"{task}", f"Essential of {container.get('Name')} is {container.get('Essential')}", "true")


def containers_wait_for_what_comes(stacks: Stacks) -> Iterator[Finding]:
    """A container that waits for what never happens never starts: let DependsOn and MountPoints name what the task has."""
    for task in tasks(stacks):
        by_name = {one.get("Name"): one for one in containers(task)}
        volumes = [one.get("Name") for one in task.list("Volumes")]
        for container in containers(task):
            for needed in container.get("DependsOn") or []:
                other = by_name.get(needed.get("ContainerName"))
                if other is None or (needed.get("Condition") == "HEALTHY" and not other.get("HealthCheck")):
                    found = f"{container.get('Name')} waits until {needed.get('ContainerName')} is {needed.get('Condition')}"
                    yield Finding(f"{task}", found, "a container of this task, with a HealthCheck where it is to be HEALTHY")
            for mount in container.get("MountPoints") or []:
                if mount.get("SourceVolume") not in volumes:
                    found = f"{container.get('Name')} mounts {shown(mount.get('SourceVolume'))}"
                    yield Finding(f"{task}", found, f"one of its Volumes: {', '.join(map(str, volumes)) or 'none'}")


def internal_ports_are_not_mapped(stacks: Stacks) -> Iterator[Finding]:
    """Whoever reaches the management port can load code into the server: map the inference and the health port, and no other."""
    for task in tasks(stacks):
        for container in containers(task):
            for ports, _ in port_mappings(container):
                inside = sorted(set(ports) & set(INTERNAL_PORTS))
                if inside:
                    yield Finding(
                        f"{task}", f"port {', '.join(map(str, inside))} is mapped", f"{TRAFFIC_PORT} and {HEALTH_PORT} alone"
                    )


def container_health_check_is_patient(stacks: Stacks) -> Iterator[Finding]:
    """ECS stops a task whose own health check fails: ask /livez or /readyz of the health port, and only after the start."""
    for task, container in served(stacks):
        check = container.get("HealthCheck")
        if not check:
            continue
        words = " ".join(map(str, check.get("Command") or []))
        if (
            not words.startswith(("CMD ", "CMD-SHELL "))
            or f":{HEALTH_PORT}/" not in words
            or not re.search(r"/(livez|readyz)\b", words)
        ):
            expected = f"CMD, and /livez or /readyz of port {HEALTH_PORT}: /ping is well without any model"
            yield Finding(f"{task}", f"HealthCheck.Command is {words}", expected)
        if re.search(r"\b(curl|wget)\b", words):
            yield Finding(f"{task}", f"HealthCheck.Command is {words}", "python, as the image has neither curl nor wget")
        times = {"Interval": (30, 5, 300), "Timeout": (5, 2, 60), "Retries": (3, 1, 10), "StartPeriod": (0, 0, 300)}
        given = {name: number_or(check.get(name), default) for name, (default, _, _) in times.items()}
        for name, (_, least, most) in times.items():
            if not least <= given[name] <= most:
                yield Finding(f"{task}", f"HealthCheck.{name} is {given[name]:g}", f"{least} to {most}")
        window_s = given["StartPeriod"] + given["Interval"] * given["Retries"]
        if window_s < START_S:
            yield Finding(f"{task}", f"HealthCheck gives up after {window_s:g} s", f"{START_S} s or more, which a start takes")


def stop_timeout_covers_drain(stacks: Stacks) -> Iterator[Finding]:
    """ECS kills a task that has not ended in time, with requests in it: let StopTimeout exceed grace, drain and stop together."""
    fallback = STOP_TIMEOUT_S
    for _, _, template in launch_templates(stacks):
        match = re.fullmatch(r"(\d+)s", agent_settings(template).get("ECS_CONTAINER_STOP_TIMEOUT", ""))
        fallback = int(match[1]) if match else fallback
    for task, container in served(stacks):
        try:
            settings = settings_of(container)
        except ValueError:
            continue  # settings_are_taken tells
        needed_s = settings.grace_s + settings.drain_s + settings.stop_timeout_s
        given_s = number_or(container.get("StopTimeout"), fallback)
        if given_s <= needed_s:
            parts = f"grace {settings.grace_s:g}, drain {settings.drain_s:g} and stop {settings.stop_timeout_s:g}"
            yield Finding(f"{task}", f"StopTimeout is {given_s:g} s", f"more than {needed_s:g} s: {parts}")


RULES = (
    release_is_in_our_bucket,
    task_role_may_serve,
    settings_are_taken,
    secrets_can_be_read,
    container_has_few_rights,
    tmp_can_be_written,
    served_container_is_essential,
    containers_wait_for_what_comes,
    internal_ports_are_not_mapped,
    container_health_check_is_patient,
    stop_timeout_covers_drain,
)
