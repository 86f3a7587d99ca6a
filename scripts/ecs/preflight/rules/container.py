"""Rules about the container: it runs as it was tested - environment, secrets, privileges, ports, health check, shutdown."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from scripts.ecs.preflight.resolve.permissions import may, trusts
from scripts.ecs.preflight.resolve.templates import Resource, Stacks
from scripts.ecs.preflight.resolve.wiring import (
    ANY_ARCHIVE,
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
    serving_container,
    settings_of,
    shown,
)
from scripts.ecs.preflight.rules.instances import launch_templates
from scripts.ecs.preflight.rules.task import ROLE, tasks
from scripts.ecs.stacks import ORDER

# the agent's default for a container without StopTimeout
STOP_TIMEOUT_S = 30


def serving(stacks: Stacks) -> Iterator[tuple[Resource, Mapping[str, Any]]]:
    """Each task definition with its serving container."""
    for task in tasks(stacks):
        container = serving_container(stacks, task)
        if container:
            yield task, container


def release_is_in_our_bucket(stacks: Stacks) -> Iterator[Finding]:
    """Without SEEFOOD_RELEASE a task serves the models of its image, which has none: set it to release.json in this bucket."""
    for task, container in serving(stacks):
        address = environment(container).get("SEEFOOD_RELEASE")
        match = re.fullmatch(r"s3://([^/]+)/(.+\.json)", address or "")
        bucket = stacks.find(match[1], "AWS::S3::Bucket", "name") if match else None
        if bucket is None or ORDER.index(bucket.stack) > ORDER.index(task.stack):
            names = [one.identifiers["name"] for one in stacks.of("S3::Bucket")]
            yield Finding(f"{task}", f"SEEFOOD_RELEASE is {shown(address)}", f"s3://{', '.join(names)}/release.json")
        for name in ("AWS_DEFAULT_REGION", "AWS_REGION"):
            region = environment(container).get(name)
            if region not in (None, stacks.deployment.region):
                yield Finding(f"{task}", f"{name} is {region}", f"{stacks.deployment.region}, where the bucket is")


def task_role_may_serve(stacks: Stacks) -> Iterator[Finding]:
    """A task needs its release, its status and a list of the others, or it is never ready, or no canary: see TaskRole's policy."""
    for task, container in serving(stacks):
        role = stacks.find(task.get("TaskRoleArn"), ROLE)
        if role is None:
            yield Finding(f"{task}", f"TaskRoleArn is {shown(task.get('TaskRoleArn'))}", "the ARN of the task role")
            continue
        if not trusts(stacks, role, "ecs-tasks.amazonaws.com"):
            yield Finding(f"{role}", "ECS tasks cannot assume it", "a trust policy for ecs-tasks.amazonaws.com with sts:AssumeRole")
        match = re.fullmatch(r"s3://([^/]+)/(.+)\.json", environment(container).get("SEEFOOD_RELEASE", ""))
        bucket = stacks.find(match[1], "AWS::S3::Bucket", "name") if match else None
        if match is None or bucket is None:
            continue
        arn, key = bucket.identifiers["arn"], match[2]
        # archives lie beside the release document
        archive = key.rpartition("/")[0] + ("/" if "/" in key else "") + ANY_ARCHIVE
        # without ListBucket S3 answers 403 instead of 404 for a missing object, and tasks cannot choose the canaries among them
        wanted = [("s3:GetObject", f"{arn}/{key}.json"), ("s3:GetObject", f"{arn}/{archive}"), ("s3:ListBucket", arn)]
        # a stopping task deletes its status
        wanted += [(action, f"{arn}/{key}.status/x.json") for action in ("s3:PutObject", "s3:DeleteObject")]
        encryption = bucket.get("BucketEncryption", "ServerSideEncryptionConfiguration", 0, "ServerSideEncryptionByDefault") or {}
        if encryption.get("KMSMasterKeyID"):
            wanted += [(action, str(encryption["KMSMasterKeyID"])) for action in ("kms:Decrypt", "kms:GenerateDataKey")]
        for action, resource in wanted:
            if not may(stacks, role, action, resource, {"s3:prefix": f"{key}.status/"}):
                yield Finding(f"{role}", f"it may not call {action} on {resource}", "a policy that allows it")


def settings_are_taken(stacks: Stacks) -> Iterator[Finding]:
    """The server refuses to start with an unknown or invalid SEEFOOD_ variable: correct it, and set each variable only once."""
    for task, container in serving(stacks):
        try:
            settings_of(container)
        except ValueError as error:
            yield Finding(f"{task}", str(error), "a setting of scripts/settings.py")
        given = [*(container.get("Environment") or []), *(container.get("Secrets") or [])]
        # of two values one is silently ignored
        names = [one.get("Name") for one in given]
        for name in sorted({str(one) for one in names if names.count(one) > 1}):
            yield Finding(f"{task}", f"{name} is set twice", "once, in Environment or in Secrets")
        if not is_true(environment(container).get("SEEFOOD_LOG_JSON")):
            found = f"SEEFOOD_LOG_JSON is {shown(environment(container).get('SEEFOOD_LOG_JSON'))}"
            yield Finding(f"{task}", found, "true, as alarms and queries read JSON")


def secrets_can_be_read(stacks: Stacks) -> Iterator[Finding]:
    """A task stops at once if a secret, its field or the right to read it is missing: fix ValueFrom or the execution role."""
    for task in tasks(stacks):
        role = stacks.find(task.get("ExecutionRoleArn"), ROLE, "arn")
        for container in containers(task):
            for secret in container.get("Secrets") or []:
                for found, expected in _secret_faults(stacks, role, secret):
                    yield Finding(f"{task}", f"secret {shown(secret.get('Name'))}: {found}", expected)


def _secret_faults(stacks: Stacks, role: Resource | None, secret: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
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
            yield f"{role} may not call ssm:GetParameters on {arn}", "a policy that allows it"
        return
    # SECRET_ARN:FIELD:STAGE:VERSION; the ARN itself has seven parts
    fields = value[len(ours.identifiers["arn"]) + 1 :].split(":") if ours else value.split(":")[7:]
    arn = ours.identifiers["arn"] if ours else ":".join(value.split(":")[:7])
    if fields not in ([], [""]) and len(fields) != 3:
        yield f"ValueFrom is {value}", "the secret's ARN, or ARN:FIELD:STAGE:VERSION, where STAGE and VERSION may be empty"
    elif ours and fields not in ([], [""]) and fields[0] not in ("", *_fields(ours)):
        yield f"{ours} has no field {fields[0]}", f"one of {', '.join(_fields(ours)) or 'none, as the secret is not JSON'}"
    # the ARN in a template may lack the six characters that AWS appends
    if role and not any(may(stacks, role, "secretsmanager:GetSecretValue", one) for one in (arn, f"{arn}-AbCdEf")):
        yield f"{role} may not call secretsmanager:GetSecretValue on {arn}", "a policy that allows it"


def _fields(secret: Resource) -> list[str]:
    """The fields of a secret that holds JSON."""
    texts = [secret.get("SecretString"), secret.get("GenerateSecretString", "SecretStringTemplate")]
    generated = secret.get("GenerateSecretString", "GenerateStringKey")
    found = [str(generated)] if generated else []
    for text in texts:
        try:
            content = json.loads(str(text))
        except ValueError:
            continue
        found += list(content) if isinstance(content, dict) else []
    return found


def container_has_few_rights(stacks: Stacks) -> Iterator[Finding]:
    """An exploited server must gain nothing: use a read-only root, a non-root user, no privileges and no capabilities."""
    for task in tasks(stacks):
        for mode in ("PidMode", "IpcMode"):
            if task.get(mode) == "host":
                yield Finding(f"{task}", f"{mode} is host", f"{mode} not set")
        for container in containers(task):
            name, linux = container.get("Name"), container.get("LinuxParameters") or {}
            capabilities = linux.get("Capabilities") or {}
            if not is_true(container.get("ReadonlyRootFilesystem")):
                found = f"ReadonlyRootFilesystem of {name} is {shown(container.get('ReadonlyRootFilesystem'))}"
                yield Finding(f"{task}", found, "true")
            # by number: a name could be root in the image's /etc/passwd
            if not re.fullmatch(r"0*[1-9]\d*(:0*[1-9]\d*)?", str(container.get("User"))):
                yield Finding(f"{task}", f"User of {name} is {shown(container.get('User'))}", "10001:10001, as in the image")
            if is_true(container.get("Privileged")):
                yield Finding(f"{task}", f"Privileged of {name} is true", "false")
            if "ALL" not in (capabilities.get("Drop") or []) or capabilities.get("Add"):
                yield Finding(f"{task}", f"Capabilities of {name} are {shown(capabilities or None)}", "Drop: [ALL], and no Add")
            if "no-new-privileges" not in (container.get("DockerSecurityOptions") or []):
                found = f"DockerSecurityOptions of {name} is {shown(container.get('DockerSecurityOptions'))}"
                yield Finding(f"{task}", found, "no-new-privileges in the list")


def tmp_can_be_written(stacks: Stacks) -> Iterator[Finding]:
    """The server unpacks models into /tmp, and its root file system is read-only: mount a writable tmpfs of 256 MiB or more."""
    for task, container in serving(stacks):
        mounted = [one for one in (container.get("LinuxParameters") or {}).get("Tmpfs") or [] if one.get("ContainerPath") == "/tmp"]
        volumes = [one for one in container.get("MountPoints") or [] if one.get("ContainerPath") == "/tmp"]
        for one in mounted:
            if number_or(one.get("Size"), 0) < 256:
                yield Finding(f"{task}", f"Size of /tmp is {shown(one.get('Size'))}", "256 MiB or more")
            if "ro" in (one.get("MountOptions") or []):
                yield Finding(f"{task}", "MountOptions of /tmp has ro", "rw")
            # files in a tmpfs count towards the container's memory
            limit = number(container.get("Memory")) or number(task.get("Memory"))
            if limit is not None and number_or(one.get("Size"), 0) >= limit:
                yield Finding(f"{task}", f"Size of /tmp is {one.get('Size')}", f"less than the task's memory, {limit:g} MiB")
        if not mounted and not any(not is_true(one.get("ReadOnly")) for one in volumes):
            yield Finding(f"{task}", "nothing is mounted at /tmp", "a tmpfs")


def served_container_is_essential(stacks: Stacks) -> Iterator[Finding]:
    """If the serving container is not essential, the task outlives the server: set Essential to true, the default."""
    for task, container in serving(stacks):
        if str(container.get("Essential", True)).lower() != "true":
            yield Finding(f"{task}", f"Essential of {container.get('Name')} is {container.get('Essential')}", "true")


def container_dependencies_can_be_met(stacks: Stacks) -> Iterator[Finding]:
    """A container that waits for something that never happens never starts: fix DependsOn and MountPoints."""
    for task in tasks(stacks):
        by_name = {one.get("Name"): one for one in containers(task)}
        volumes = [one.get("Name") for one in task.list("Volumes")]
        for container in containers(task):
            for needed in container.get("DependsOn") or []:
                other = by_name.get(needed.get("ContainerName"))
                if other is None or (needed.get("Condition") == "HEALTHY" and not other.get("HealthCheck")):
                    found = f"{container.get('Name')} waits until {needed.get('ContainerName')} is {needed.get('Condition')}"
                    yield Finding(f"{task}", found, "a container of this task, and a HealthCheck on it if the condition is HEALTHY")
            for mount in container.get("MountPoints") or []:
                if mount.get("SourceVolume") not in volumes:
                    found = f"{container.get('Name')} mounts {shown(mount.get('SourceVolume'))}"
                    yield Finding(f"{task}", found, f"one of its Volumes: {', '.join(map(str, volumes)) or 'none'}")


def internal_ports_are_not_mapped(stacks: Stacks) -> Iterator[Finding]:
    """Anyone who reaches the management port can load code into the server: map only the inference port."""
    for task in tasks(stacks):
        for container in containers(task):
            for ports, _ in port_mappings(container):
                inside = sorted(set(ports) & set(INTERNAL_PORTS))
                if inside:
                    yield Finding(f"{task}", f"port {', '.join(map(str, inside))} is mapped", f"only {TRAFFIC_PORT}")


def container_health_check_allows_for_start(stacks: Stacks) -> Iterator[Finding]:
    """ECS stops a task whose container health check fails: check /livez or /readyz and allow for the start."""
    for task, container in serving(stacks):
        check = container.get("HealthCheck")
        if not check:
            continue
        command = " ".join(map(str, check.get("Command") or []))
        if (
            not command.startswith(("CMD ", "CMD-SHELL "))
            or f":{TRAFFIC_PORT}/" not in command
            or not re.search(r"/(livez|readyz)\b", command)
        ):
            expected = f"CMD with /livez or /readyz on port {TRAFFIC_PORT}: /ping succeeds without any model"
            yield Finding(f"{task}", f"HealthCheck.Command is {command}", expected)
        if re.search(r"\b(curl|wget)\b", command):
            yield Finding(f"{task}", f"HealthCheck.Command is {command}", "python, as the image has neither curl nor wget")
        times = {"Interval": (30, 5, 300), "Timeout": (5, 2, 60), "Retries": (3, 1, 10), "StartPeriod": (0, 0, 300)}
        given = {name: number_or(check.get(name), default) for name, (default, _, _) in times.items()}
        for name, (_, least, most) in times.items():
            if not least <= given[name] <= most:
                yield Finding(f"{task}", f"HealthCheck.{name} is {given[name]:g}", f"{least} to {most}")
        window_s = given["StartPeriod"] + given["Interval"] * given["Retries"]
        if window_s < START_S:
            yield Finding(f"{task}", f"HealthCheck gives up after {window_s:g} s", f"{START_S} s or more, the time of a start")


def stop_timeout_covers_drain(stacks: Stacks) -> Iterator[Finding]:
    """ECS kills a task that has not stopped within StopTimeout: make it longer than grace, drain and stop time together."""
    fallback = STOP_TIMEOUT_S
    for _, _, template in launch_templates(stacks):
        match = re.fullmatch(r"(\d+)s", agent_settings(template).get("ECS_CONTAINER_STOP_TIMEOUT", ""))
        # a container without StopTimeout gets the agent's
        fallback = int(match[1]) if match else fallback
    for task, container in serving(stacks):
        try:
            settings = settings_of(container)
        except ValueError:
            continue  # settings_are_taken reports it
        needed_s = settings.grace_s + settings.drain_s + settings.stop_timeout_s
        given_s = number_or(container.get("StopTimeout"), fallback)
        if given_s <= needed_s:
            parts = f"grace {settings.grace_s:g}, drain {settings.drain_s:g} and stop {settings.stop_timeout_s:g}"
            yield Finding(f"{task}", f"StopTimeout is {given_s:g} s", f"more than {needed_s:g} s ({parts})")


RULES = (
    release_is_in_our_bucket,
    task_role_may_serve,
    settings_are_taken,
    secrets_can_be_read,
    container_has_few_rights,
    tmp_can_be_written,
    served_container_is_essential,
    container_dependencies_can_be_met,
    internal_ports_are_not_mapped,
    container_health_check_allows_for_start,
    stop_timeout_covers_drain,
)
