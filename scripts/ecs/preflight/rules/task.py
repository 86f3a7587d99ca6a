"""Rules about the task definition: that ECS can place and start it - network, ports, image, roles, logs, memory."""

import re
from collections.abc import Iterator

from scripts.ecs.preflight.resolve.permissions import may, trusts
from scripts.ecs.preflight.resolve.templates import Resource, Stacks
from scripts.ecs.preflight.resolve.wiring import (
    Finding,
    containers,
    groups_of,
    is_true,
    network_mode,
    number,
    number_or,
    port_mappings,
    served_container,
    services,
    shown,
    target_groups_of,
    task_of,
)
from scripts.ecs.preflight.rules.instances import known_types
from scripts.ecs.stacks import ORDER

ROLE, LOG_GROUP, REPOSITORY = "AWS::IAM::Role", "AWS::Logs::LogGroup", "AWS::ECR::Repository"
PULL_ACTIONS = ("ecr:BatchCheckLayerAvailability", "ecr:GetDownloadUrlForLayer", "ecr:BatchGetImage")
IMAGE = re.compile(
    r"(?P<host>(?P<account>\d{12})\.dkr\.ecr\.(?P<region>[a-z0-9-]+)\.amazonaws\.com(?:\.cn)?)/(?P<repository>[^:@]+)"
    r"(?::(?P<tag>[^@]*))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)
LOG_OPTIONS = (
    *("awslogs-group", "awslogs-region", "awslogs-stream-prefix", "awslogs-create-group", "awslogs-datetime-format"),
    *("awslogs-multiline-pattern", "awslogs-endpoint", "mode", "max-buffer-size"),
)
# what serving takes while a rollout has two versions loaded, measured with the starter model; tmpfs is memory, too
ROLLOUT_MIB = 1740


def tasks(stacks: Stacks) -> list[Resource]:
    """All task definitions."""
    return stacks.of("ECS::TaskDefinition")


def network_mode_fits_target_type(stacks: Stacks) -> Iterator[Finding]:
    """ECS refuses target type ip without awsvpc, and instance with it: awsvpc goes with ip, bridge and host with instance."""
    for service in services(stacks):
        task = task_of(stacks, service)
        for group in target_groups_of(stacks, service) if task else []:
            assert task is not None
            mode, type_ = network_mode(task), str(group.get("TargetType") or "instance")
            for instances in stacks.of("AutoScaling::AutoScalingGroup"):
                if group.identifiers["arn"] in instances.list("TargetGroupARNs"):
                    yield Finding(f"{instances}", f"TargetGroupARNs has {group}", "none, as ECS registers tasks, not instances")
            if type_ != ("ip" if mode == "awsvpc" else "instance"):
                yield Finding(
                    f"{group}", f"TargetType is {type_}", f"{'ip' if mode == 'awsvpc' else 'instance'}, as {task} has {mode}"
                )


def network_configuration_fits_mode(stacks: Stacks) -> Iterator[Finding]:
    """ECS refuses awsvpc without subnets and group, other modes with them, and public addresses on EC2: let these three fit."""
    for service in services(stacks):
        task = task_of(stacks, service)
        if task is None:
            continue
        here = ("NetworkConfiguration", "AwsvpcConfiguration")
        if network_mode(task) not in ("awsvpc", "bridge", "host"):
            yield Finding(f"{task}", f"NetworkMode is {network_mode(task)}", "awsvpc, where each task has an address of its own")
        if network_mode(task) != "awsvpc":
            if service.get("NetworkConfiguration"):
                yield Finding(f"{service}", "it has a NetworkConfiguration", f"none, as {task} has {network_mode(task)}")
            continue
        for key in ("Subnets", "SecurityGroups"):
            if not service.list(*here, key):
                yield Finding(f"{service}", f"NetworkConfiguration has no {key}", "them, as the task has awsvpc")
        if str(service.get(*here, "AssignPublicIp") or "DISABLED") != "DISABLED":
            yield Finding(f"{service}", "AssignPublicIp is ENABLED", "DISABLED, as EC2 gives tasks no public address")
        if service.get("Role"):
            yield Finding(f"{service}", f"Role is {service.get('Role')}", "none: with awsvpc ECS uses its service-linked role")


def host_ports_are_free(stacks: Stacks) -> Iterator[Finding]:
    """A fixed host port is taken by the old task while the new one waits for it: use 0 with bridge, and awsvpc's own port else."""
    for task in tasks(stacks):
        for container in containers(task):
            for ports, mapping in port_mappings(container):
                host = mapping.get("HostPort")
                if network_mode(task) == "awsvpc":
                    if host not in (None, "") and number(host) != ports.start:
                        yield Finding(f"{task}", f"HostPort is {host}", f"{ports.start}, its ContainerPort, or none with awsvpc")
                elif network_mode(task) == "host" or number_or(host, 0) != 0:
                    expected = "0, so that each task gets one that is free" if network_mode(task) == "bridge" else "awsvpc"
                    yield Finding(f"{task}", f"HostPort is {shown(host)} with NetworkMode {network_mode(task)}", expected)


def image_parts(task: Resource, stacks: Stacks) -> re.Match[str] | None:
    """The parts of the image that serves, None where it is no image of ECR."""
    container = served_container(stacks, task)
    return IMAGE.fullmatch(str(container.get("Image"))) if container else None


def image_repository(stacks: Stacks, task: Resource) -> Resource | None:
    """The registry of these stacks that the image comes from; one without a fixed name is taken to be it."""
    parts = image_parts(task, stacks)
    repositories = stacks.of(REPOSITORY)
    for repository in repositories:
        if parts and repository.identifiers["name"] == parts["repository"]:
            return repository
    unnamed = [one for one in repositories if one.get("RepositoryName") is None]
    return unnamed[0] if parts and unnamed else None


def image_comes_from_our_registry(stacks: Stacks) -> Iterator[Finding]:
    """An image that is not in this deployment's registry cannot be pulled: push it there, and name it in full."""
    for task in tasks(stacks):
        container, parts = served_container(stacks, task), image_parts(task, stacks)
        image = container.get("Image") if container else None
        expected = f"REGISTRY/NAME:TAG of this deployment's ECR in {stacks.deployment.region}"
        if parts is None or parts["region"] != stacks.deployment.region or image_repository(stacks, task) is None:
            yield Finding(f"{task}", f"Image is {shown(image)}", expected)


def image_is_there_first(stacks: Stacks) -> Iterator[Finding]:
    """A registry that is made together with the service is empty when its first task starts: keep it in an earlier stack."""
    for task in tasks(stacks):
        repository = image_repository(stacks, task)
        if repository and ORDER.index(repository.stack) >= ORDER.index(task.stack):
            found = f"its image is in {repository}, of the same stack or a later one"
            yield Finding(f"{task}", found, "a registry of an earlier stack, with the image pushed before")


def image_tag_is_fixed(stacks: Stacks) -> Iterator[Finding]:
    """Without a tag of its own a replaced task may start an untested image: name a tag that is pushed once, or a digest."""
    for task in tasks(stacks):
        for container in containers(task):
            parts = IMAGE.fullmatch(str(container.get("Image")))
            tag = parts["tag"] if parts else str(container.get("Image")).rpartition("/")[2].partition(":")[2]
            if not (parts and parts["digest"]) and (not tag or tag.lower() == "latest"):
                yield Finding(f"{task}", f"Image is {shown(container.get('Image'))}", "a tag other than latest, e.g. the commit")


def architecture_matches(stacks: Stacks) -> Iterator[Finding]:
    """An image for another processor ends with "exec format error", or is never placed: let CpuArchitecture be the instances'."""
    for service in services(stacks):
        task = task_of(stacks, service)
        for group in groups_of(stacks, service) if task else []:
            assert task is not None
            architecture = str(task.get("RuntimePlatform", "CpuArchitecture") or "X86_64")
            for one in known_types(stacks, group):
                if architecture.lower() != one.architecture:
                    yield Finding(f"{task}", f"CpuArchitecture is {architecture}", f"{one.architecture.upper()}, as {one.name} is")
    for task in tasks(stacks):
        system = str(task.get("RuntimePlatform", "OperatingSystemFamily") or "LINUX")
        if system != "LINUX":
            yield Finding(f"{task}", f"OperatingSystemFamily is {system}", "LINUX, as the instances and the image are")
        compatible = task.list("RequiresCompatibilities")
        if compatible and "EC2" not in compatible:
            yield Finding(f"{task}", f"RequiresCompatibilities is {compatible}", "EC2 among them, or none")


def execution_role_is_there(stacks: Stacks) -> Iterator[Finding]:
    """Without an execution role that ECS may take on, the image is not pulled and no log is written: set ExecutionRoleArn."""
    for task in tasks(stacks):
        role = stacks.find(task.get("ExecutionRoleArn"), ROLE, "arn")
        if role is None:
            yield Finding(f"{task}", f"ExecutionRoleArn is {shown(task.get('ExecutionRoleArn'))}", "the ARN of the execution role")
        elif not trusts(stacks, role, "ecs-tasks.amazonaws.com"):
            yield Finding(f"{role}", "ECS tasks may not take it on", "trust in ecs-tasks.amazonaws.com, for sts:AssumeRole")


def execution_role_may_start_task(stacks: Stacks) -> Iterator[Finding]:
    """Image and log stream are fetched and opened with the execution role: let it pull from ECR and write to the log group."""
    for task in tasks(stacks):
        role = stacks.find(task.get("ExecutionRoleArn"), ROLE, "arn")
        if role is None:
            continue
        repository = image_repository(stacks, task)
        wanted = [("ecr:GetAuthorizationToken", "*")]
        wanted += [(action, repository.identifiers["arn"]) for action in PULL_ACTIONS] if repository else []
        for container in containers(task):
            options = (container.get("LogConfiguration") or {}).get("Options") or {}
            group = stacks.find(options.get("awslogs-group"), LOG_GROUP, "name")
            if group:
                arn = group.identifiers["arn"].removesuffix("*") + "log-stream:x"
                wanted += [("logs:CreateLogStream", arn), ("logs:PutLogEvents", arn)]
                wanted += [("logs:CreateLogGroup", arn)] if is_true(options.get("awslogs-create-group")) else []
        for action, resource in dict.fromkeys(wanted):
            if not may(stacks, role, action, resource):
                yield Finding(f"{role}", f"it may not {action} on {resource}", "that the execution role may")


def log_group_exists(stacks: Stacks) -> Iterator[Finding]:
    """A task ends at once if its log group is missing or in another region: name the group of an earlier stack, and this region."""
    for task in tasks(stacks):
        for container in containers(task):
            name, logs = container.get("Name"), container.get("LogConfiguration") or {}
            options = logs.get("Options") or {}
            if logs.get("LogDriver") != "awslogs":
                yield Finding(
                    f"{task}", f"LogDriver of {name} is {shown(logs.get('LogDriver'))}", "awslogs, or nobody sees why it ends"
                )
                continue
            group = stacks.find(options.get("awslogs-group"), LOG_GROUP, "name")
            if group is None:
                yield Finding(
                    f"{task}", f"awslogs-group of {name} is {shown(options.get('awslogs-group'))}", "a log group of these stacks"
                )
            elif ORDER.index(group.stack) > ORDER.index(task.stack):
                yield Finding(f"{task}", f"its log group is made later, in {group}", "one that is there before the task")
            elif group.stack == task.stack and not any(
                group.name in stacks.before(one) for one in [task, *services(stacks)] if one.stack == task.stack
            ):
                yield Finding(f"{task}", f"nothing makes it wait for its log group {group}", "DependsOn, or !Ref of the group")
            unknown = sorted(set(options) - set(LOG_OPTIONS))
            if unknown or options.get("mode") not in (None, "blocking", "non-blocking"):
                found = f"Options of {name} has {', '.join(unknown) or 'mode ' + str(options.get('mode'))}"
                yield Finding(f"{task}", found, "options that Docker knows, as the container does not start else")
            if options.get("awslogs-region") != stacks.deployment.region:
                found = f"awslogs-region of {name} is {shown(options.get('awslogs-region'))}"
                yield Finding(f"{task}", found, f"{stacks.deployment.region}, where its log group is")


def memory_is_enough(stacks: Stacks) -> Iterator[Finding]:
    """Too little memory kills the container while a rollout has two versions loaded: give it enough, and reserve no more."""
    for task in tasks(stacks):
        served, total = served_container(stacks, task), number(task.get("Memory"))
        for container in containers(task):
            hard, soft = number(container.get("Memory")), number(container.get("MemoryReservation"))
            limit, name = hard if hard is not None else total, container.get("Name")
            if total is None and hard is None and soft is None:
                yield Finding(
                    f"{task}", f"{name} has neither Memory nor MemoryReservation, nor has the task", "Memory, as ECS refuses it"
                )
            if hard is not None and total is not None and hard > total:
                yield Finding(f"{task}", f"Memory of {name} is {hard:g}", f"at most the task's, {total:g}")
            if soft is not None and limit is not None and soft > limit:
                yield Finding(f"{task}", f"MemoryReservation of {name} is {soft:g}", f"at most its Memory, {limit:g}")
            if container is served and limit is not None and limit < ROLLOUT_MIB:
                yield Finding(f"{task}", f"Memory of {name} is {limit:g}", f"{ROLLOUT_MIB} MiB or more, for two versions")


RULES = (
    network_mode_fits_target_type,
    network_configuration_fits_mode,
    host_ports_are_free,
    image_comes_from_our_registry,
    image_is_there_first,
    image_tag_is_fixed,
    architecture_matches,
    execution_role_is_there,
    execution_role_may_start_task,
    log_group_exists,
    memory_is_enough,
)
